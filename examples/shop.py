"""A shop's log with a planted structure: who buys a device comes back for its accessory.

    python examples/shop.py shop            # shop/orders.csv, shop/products.csv, shop/expected.csv
    suisen data inspect shop/orders.csv --session session --item-features shop/products.csv
    suisen train --events shop/orders.csv --session session --item-features shop/products.csv --titles title \
        --retriever item-knn --out runs/shop
    suisen recommend runs/shop --user c0001 -k 5

What is odd about it, as in real shops: times with a zone, guests (orders without a customer, known by their session),
things that are bought again, products that nobody has bought yet.  ``expected.csv`` says which accessory the customers
whose last device still waits for one should be offered.
"""

import argparse
from pathlib import Path

import numpy as np
import polars as pl

SIZES = {"small": (600, 40), "large": (50_000, 2_000)}
"""Customers, devices."""
SHELVES = {"cameras": "Camera", "phones": "Phone", "bikes": "Bike", "kitchen": "Mixer"}
ACCESSORY, AGAIN, GUESTS, UNFINISHED = 0.9, 0.2, 0.15, 0.35
"""Chances: that the accessory follows its device, that batteries are bought beside, that a visit is a guest's, that a
customer's last device still waits for its accessory."""


def products(devices: int) -> pl.DataFrame:
    """The catalogue: a device and its accessory each, consumables, and some that nobody buys."""
    rows = []
    for place in range(devices):
        shelf, name = list(SHELVES.items())[place % len(SHELVES)]
        rows.append((f"D-{place:04d}", f"{name} {place}", shelf, 100.0 + place))
        rows.append((f"A-{place:04d}", f"Case for {name.lower()} {place}", shelf, 9.5 + place % 7))
    rows += [(f"C-{place:02d}", f"Batteries, pack of {place + 2}", "consumables", 2.0 + place) for place in range(8)]
    rows += [(f"N-{place:02d}", f"New arrival {place}", "new", 50.0) for place in range(5)]
    return pl.DataFrame(rows, schema=["sku", "title", "category", "price"], orient="row")


def orders(customers: int, devices: int, rng: np.random.Generator) -> tuple[pl.DataFrame, pl.DataFrame]:
    """(orders, expected): the customers in ``expected`` end with a device whose accessory is still to come."""
    popular = 1 / np.arange(8, devices + 8)
    rows, expected = [], []
    for customer in range(customers):
        clock, name = int(rng.integers(0, 200 * 86_400)), f"c{customer:04d}"
        picked = rng.choice(devices, size=int(rng.integers(3, 6)), replace=False, p=popular / popular.sum())
        waits = rng.random() < UNFINISHED
        for visit, device in enumerate(picked):
            last = visit == len(picked) - 1
            guest = not last and rng.random() < GUESTS
            basket = [f"D-{device:04d}"]
            if rng.random() < AGAIN:
                basket.insert(0, f"C-{customer % 8:02d}")
            if not (last and waits) and rng.random() < ACCESSORY:
                basket.append(f"A-{device:04d}")
            for sku in basket:
                clock += int(rng.integers(600, 86_400))
                rows.append((clock, None if guest else name, f"s{customer:04d}-{visit}", sku))
            clock += int(rng.integers(5, 30)) * 86_400
        if waits:
            expected.append((name, f"D-{picked[-1]:04d}", f"A-{picked[-1]:04d}"))
    log = pl.DataFrame(rows, schema=["at", "customer_id", "session", "sku"], orient="row").sort("at")
    when = pl.from_epoch(pl.col("at") + 1_704_067_200).dt.strftime("%Y-%m-%dT%H:%M:%S+09:00")
    return (
        log.select(when.alias("created_at"), "customer_id", "session", "sku"),
        pl.DataFrame(expected, schema=["customer_id", "bought_last", "expected"], orient="row"),
    )


def write(folder: Path, size: str = "small", seed: int = 0) -> None:
    """Writes the three files."""
    customers, devices = SIZES[size]
    folder.mkdir(parents=True, exist_ok=True)
    log, expected = orders(customers, devices, np.random.default_rng(seed))
    log.write_csv(folder / "orders.csv")
    expected.write_csv(folder / "expected.csv")
    products(devices).write_csv(folder / "products.csv")
    print(f"{log.height:,} rows of {customers:,} customers in {folder / 'orders.csv'}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--seed", type=int, default=0)
    write(**vars(parser.parse_args()))

"""``suisen export``."""

from pathlib import Path

import click

FOLDER = click.Path(path_type=Path)


@click.command(short_help="A bundle as ONNX graphs, or as a Triton model repository (extra: export).")
@click.argument("target", metavar="RUN_OR_BUNDLE", type=FOLDER)
@click.argument("out", metavar="OUT", type=FOLDER)
@click.option("--to", type=click.Choice(["onnx", "triton"]), default="onnx", help="What to write.")
@click.option("--name", default="suisen", metavar="NAME", help="Of the model in a Triton repository.")
@click.option("--trusted-keys", type=FOLDER, help="A public key, or a folder of them: one of them must have signed it.")
def export(target: Path, out: Path, to: str, name: str, trusted_keys: Path | None) -> None:
    """Writes a bundle for servers without torch, and compares their lists with the bundle's.

    \b
    suisen export runs/tower exported
    suisen export runs/tower models --to triton --name shop

    onnx: the query tower, the ranker's context and pairs as ONNX graphs, everything else as plain arrays, and
    exported.py, which answers from them with NumPy and ONNX Runtime.  triton: the same as a model of the python backend
    in the repository OUT, for tritonserver --model-repository=OUT.
    """  # noqa: D301 - \b keeps the lines for click
    from suisen.recommending.bundle import load
    from suisen.recommending.exporting import K
    from suisen.recommending.exporting import export as write

    done = write(load(target, trusted_keys), out, "triton" if to == "triton" else "onnx", name)
    click.echo(f"{done.folder}: {', '.join(done.made)}")
    told = f"{done.identical:.1%} of them are the bundle's" if done.judged else "no user has a history to compare"
    click.echo(f"the first {K} items of {done.judged:,} users were compared: {told}")

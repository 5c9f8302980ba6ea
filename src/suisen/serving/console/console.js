// The operator's page.  Everything that it shows comes from this server, with the key that it was given; text from
// outside is only ever set as text.
"use strict";
(() => {
  const KEY = "suisen-console-key";
  const EVERY_MS = 2000, SLOTS_EVERY = 3, KEPT = 150;   // a point every 2 s, five minutes of them; versions every third
  const CHIPS = 500, PARTS = 8;    // most blocked items that are named, and parts of a score that are shown at once
  const RULES = {
    required: "refused by an expression",
    untrained: "without an event in train", blocked: "blocked", seen: "seen before",
    excluded: "excluded by the request", among: "not among the items asked for",
    where: "without the attributes asked for",
  };
  const ROLES = { serving: "answers", candidate: "loaded beside", former: "answered before" };
  const $ = (id) => document.getElementById(id);

  // -- parts of the page --------------------------------------------------------------------------------------------

  function el(tag, given = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(given)) {
      if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else if (value === true) made.setAttribute(name, "");
      else if (value !== false && value !== null) made.setAttribute(name, value);
    }
    made.append(...children.flat().filter((child) => child !== null && child !== ""));
    return made;
  }

  function svg(tag, given = {}, ...children) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(given)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  }

  // Draws a part anew; a focus that was inside stays inside.
  function redraw(part, children) {
    const inside = part.contains(document.activeElement);
    part.replaceChildren(...children.flat());
    if (inside) part.focus();
  }

  const number = (value, digits = 3) =>
    value === null || value === undefined || !Number.isFinite(value) ? "–"
      : Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en")
      : String(Number(value.toPrecision(digits)));
  const count = (value) => value.toLocaleString("en");
  const many = (value, what) => `${count(value)} ${what}${value === 1 ? "" : "s"}`;
  const named = (one) => {
    const id = String(one.item_id);
    return [one.title, one.title === id ? "" : el("span", { class: "id" }, id)];
  };
  const tile = (name, text) => { document.querySelector(`[data-tile=${name}]`).textContent = text; };

  // A button whose work waits for the server; ``label``: what it is called where its text alone does not say it.
  function button(text, label, work, kind = "quiet small") {
    const made = el("button", { type: "button", class: kind, "aria-label": label }, text);
    made.addEventListener("click", () => doing(made, work));
    return made;
  }

  let fading = 0;
  function say(text, bad = false) {
    const said = $("said");
    clearTimeout(fading);
    said.hidden = false;
    said.textContent = text;
    said.classList.toggle("bad", bad);
    said.setAttribute("role", bad ? "alert" : "status");
    fading = setTimeout(() => { said.hidden = true; }, bad ? 12000 : 6000);
  }

  // -- asking the server --------------------------------------------------------------------------------------------

  class Refused extends Error {
    constructor(status, said) {
      super(said);
      this.status = status;
    }
  }

  // Ids of more than 15 digits would be rounded as numbers; as texts they name the same items.
  const WORD = /"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g;
  const read = (text) => JSON.parse(text.replace(WORD, (word) => (/^-?\d{16,}$/.test(word) ? `"${word}"` : word)));

  async function ask(method, path, message) {
    const headers = {};
    const key = sessionStorage.getItem(KEY);
    if (key) headers.authorization = `Bearer ${key}`;
    if (message !== undefined) headers["content-type"] = "application/json";
    const body = message === undefined ? undefined : JSON.stringify(message);
    let reply, text;
    try {
      reply = await fetch(path, { method, headers, body, cache: "no-store", credentials: "omit" });
      text = await reply.text();
    } catch {
      throw new Refused(0, "the server gives no answer; is it running?");
    }
    const json = /json/.test(reply.headers.get("content-type") || "");
    if (!reply.ok) throw new Refused(reply.status, json ? read(text).detail : `the server answers ${reply.status}`);
    return json ? read(text) : text;
  }

  // Does what a control stands for: the control waits, a refusal is said, a key that is not taken is asked for again.
  async function doing(control, work) {
    if (control) {
      if (control.hasAttribute("aria-busy")) return null;
      control.setAttribute("aria-busy", "true");       // not disabled, which would take the focus away
    }
    try {
      return await work();
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      if (error.status === 401 || error.status === 403) locked(error.message);
      else say(error.message, true);
      return null;
    } finally {
      if (control) control.removeAttribute("aria-busy");
    }
  }

  // -- the key ------------------------------------------------------------------------------------------------------

  function locked(said) {
    stop();
    last = null;
    $("lists").replaceChildren();
    $("lists-said").textContent = "";
    $("entry").hidden = false;
    $("console").hidden = true;
    $("forget").hidden = true;
    $("state").textContent = "no key is taken yet";
    $("entry-said").textContent = sessionStorage.getItem(KEY) ? said : "";
    $("key").focus();
  }

  async function unlocked() {
    $("state").textContent = "asking the server …";
    await doing(null, async () => {
      await versions();
      $("entry").hidden = true;
      $("console").hidden = false;
      $("forget").hidden = !sessionStorage.getItem(KEY);
      await blocklist();
      start();
    });
    if ($("console").hidden && $("entry").hidden) {   // neither open nor refused: the server is not there yet
      $("state").textContent = "the server gives no answer";
      setTimeout(unlocked, EVERY_MS);
    }
  }

  $("enter").addEventListener("submit", (event) => {
    event.preventDefault();
    const key = $("key").value.trim();
    if (!/^[\x21-\x7e]+$/.test(key)) {
      $("entry-said").textContent = "a key is printable ASCII without spaces, as `suisen keys new` makes it";
      return;
    }
    sessionStorage.setItem(KEY, key);
    $("key").value = "";
    unlocked();
  });
  $("forget").addEventListener("click", () => {
    sessionStorage.removeItem(KEY);
    location.reload();
  });

  // -- finding items by title ---------------------------------------------------------------------------------------

  // A combobox (ARIA): arrows choose, Enter takes, Escape closes; what is typed is looked for 150 ms later.
  function finder(input, list, take) {
    let items = [], at = -1, asked = 0, timer = 0;
    input.setAttribute("role", "combobox");
    input.setAttribute("aria-autocomplete", "list");
    input.setAttribute("aria-controls", list.id);
    list.setAttribute("role", "listbox");
    list.setAttribute("aria-label", "Items that fit");

    function draw(open, nothing = false) {
      list.replaceChildren(...items.map((item, place) => el("li", {
        role: "option", id: `${list.id}-${place}`, "aria-selected": String(place === at),
        onpointerdown: (event) => { event.preventDefault(); pick(place); },
      }, named(item), el("span", { class: "muted small" }, ` ${count(item.events)} events`))));
      if (nothing) list.append(el("li", { class: "muted" }, "no item fits"));
      list.hidden = !open;
      input.setAttribute("aria-expanded", String(open));
      if (at >= 0 && open) {
        input.setAttribute("aria-activedescendant", `${list.id}-${at}`);
        list.children[at].scrollIntoView({ block: "nearest" });
      } else input.removeAttribute("aria-activedescendant");
    }
    function pick(place) {
      const item = items[place];
      close();
      input.value = "";
      take(item);
    }
    function close() {
      clearTimeout(timer);
      asked += 1;
      items = [];
      at = -1;
      draw(false);
    }
    async function look() {
      const mine = ++asked;
      const text = input.value.trim();
      if (!text) { close(); return; }
      const asks = new URLSearchParams({ q: text.slice(0, 256), limit: "12", role: $("first").value || "serving" });
      const found = await doing(null, () => ask("GET", `admin/items?${asks}`));
      if (found === null || mine !== asked) return;   // refused, or something else was typed meanwhile
      items = found.items;
      at = items.length ? 0 : -1;
      draw(true, !items.length);
    }
    input.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(look, 150); });
    input.addEventListener("blur", close);
    input.addEventListener("keydown", (event) => {
      if (event.key === "Escape") close();
      else if ((event.key === "ArrowDown" || event.key === "ArrowUp") && items.length) {
        event.preventDefault();
        at = (at + (event.key === "ArrowDown" ? 1 : items.length - 1)) % items.length;
        draw(true);
      } else if (event.key === "Enter") {
        if (at < 0 && !input.value.trim()) return;    // nothing was looked for: Enter sends the form
        event.preventDefault();
        if (at >= 0) pick(at);
      }
    });
    draw(false);
  }

  // -- answers ------------------------------------------------------------------------------------------------------

  const past = [];      // the history that was put together, oldest first: {item_id, title}
  let last = null;      // the request that the lists on the page answer, and the roles that were asked

  const chosen = () => document.querySelector("input[name=who]:checked").value;
  function who(kind) {
    document.querySelector(`input[name=who][value=${kind}]`).checked = true;
    for (const part of document.querySelectorAll("[data-who]")) part.hidden = part.dataset.who !== kind;
  }
  for (const choice of document.querySelectorAll("input[name=who]")) {
    choice.addEventListener("change", () => who(choice.value));
  }

  function drawPast() {
    const remove = (place) => {
      past.splice(place, 1);
      drawPast();
    };
    redraw($("history"), past.map((item, place) =>
      el("li", {}, el("span", {}, named(item)), button("×", `Remove ${item.title}`, () => remove(place)))));
  }

  // What stands in the field for the rest of the request; {} where it is empty.
  function more() {
    const text = $("more").value.trim();
    let found = {};
    try {
      if (text) found = read(text);
    } catch {
      found = null;
    }
    if (found === null || typeof found !== "object" || Array.isArray(found)) {
      throw new Refused(422, 'more of the request is no JSON object; give one like {"exclude": ["17"]}');
    }
    return found;
  }

  // The body of POST /v1/recommend that the form describes.
  function request() {
    const { context, user_features, session_id, ...others } = more();
    const query = JSON.parse(JSON.stringify({ context, user_features, session_id }));   // without those not given
    if (chosen() === "history") query.history = past.map((item) => String(item.item_id));
    else if ($("user").value.trim()) query.user_id = $("user").value.trim();
    const message = { queries: [query], k: Number($("k").value), diversity: Number($("diversity").value) };
    message.precise = $("precise").value === "true";
    if ($("seen").value) message.exclude_seen = $("seen").value === "true";
    return { ...message, ...others };
  }

  async function show() {
    const roles = [...new Set([$("first").value, $("second").value])].filter(Boolean);
    last = { message: request(), roles };
    await again();
  }

  async function again() {
    if (last === null) return;
    const { message, roles } = last;
    $("lists").setAttribute("aria-busy", "true");
    const found = await Promise.allSettled(roles.map((role) => ask("POST", "admin/inspect", { ...message, role })));
    const answers = found.map((one) => (one.status === "fulfilled" ? one.value : null));
    redraw($("lists"), found.map((one, at) => {
      if (one.status === "fulfilled") return column(one.value, answers[1 - at] || null, message);
      const said = el("p", { class: "said", role: "alert" }, one.reason.message);
      return el("article", { class: "list" }, el("h3", {}, ROLES[roles[at]]), said);
    }));
    $("lists").removeAttribute("aria-busy");
    $("lists-said").textContent = answers.filter(Boolean)
      .map((one) => `${count(one.items.length)} items by ${one.version}, looked into in ${number(one.took_ms)} ms`)
      .join("; ");
    const refused = found.find((one) => one.status === "rejected" && [401, 403].includes(one.reason.status));
    if (refused) throw refused.reason;
  }

  // One version's list with all that led to it; ``other``: the answer beside it, or null.
  function column(answer, other, message) {
    const by = {
      model: `${answer.model} answers`,
      popular: `${answer.model} knows nothing of this query, which gets the popular list`,
      nobody: "nobody answers this query",
    };
    const planned = answer.way === "plan";
    const agrees = answer.as_precise ? "the same list as the precise way's" : "not quite the precise way's list";
    const missing = answer.degraded.length ? `; made without ${answer.degraded.join(", ")}` : "";
    const said = `${by[answer.answered_by]}${planned ? ` by its plan: ${agrees}` : ""}${missing}`;
    const items = answer.items.map((item) => row(answer, item, other, message));
    return el("article", { class: "list", "aria-label": `List of ${answer.version}`, "data-role": answer.role },
      el("h3", {}, `${ROLES[answer.role]}: `, el("code", {}, answer.version)),
      el("p", { class: "small muted" }, said),
      el("h4", {}, planned ? "Milliseconds by stage, as clients are answered" : "Milliseconds by stage"),
      times(answer.stages),
      planned ? details("Milliseconds of the precise way", times(answer.precise_stages)) : null,
      items.length ? el("ol", { class: "ranked" }, items)
        : el("p", { class: "said" }, "The list is empty; below is what was kept out, and why."),
      history(answer), candidates(answer), keptOut(answer));
  }

  const details = (summary, ...parts) => el("details", {}, el("summary", {}, summary), ...parts);
  const times = (stages) => bars(stages.map((one) => [one.stage, one.ms]));
  const tag = (text, kind = "tag") => el("span", { class: kind }, text);

  // Names with values: a bar each, as long as its value is beside the largest, or beside ``most``.
  function bars(pairs, most = Math.max(...pairs.map(([, value]) => Math.abs(value)))) {
    return el("dl", { class: "bars" }, pairs.map(([name, value]) => {
      const bar = el("div", { class: value < 0 ? "bar less" : "bar" });
      bar.style.width = `${(100 * Math.abs(value)) / (most || 1)}%`;
      return [el("dt", {}, name), el("dd", {}, bar), el("dd", {}, number(value))];
    }).flat());
  }

  function row(answer, item, other, message) {
    const id = String(item.item_id), same = (one) => String(one.item_id) === id;
    const candidate = answer.candidates.find(same), beside = other && other.items.find(same);
    const reasons = el("div", { class: "why", hidden: true });
    const opens = button("Why", `Why: ${item.title}`, () => why(opens, reasons, { ...message, role: answer.role }, id));
    opens.setAttribute("aria-expanded", "false");
    return el("li", { "data-item": id },
      el("span", { class: "place" }, String(item.rank)),
      el("span", { class: "title" }, named(item)),
      el("span", { class: "score" }, number(item.score, 4)),
      el("div", { class: "under" },
        candidate && candidate.second_rank !== null ? tag(`first stage: ${candidate.first_rank}`) : null,
        beside ? tag(`beside: ${beside.rank}`) : other ? tag("only here", "tag new") : null,
        opens,
        button("Click", `Click: add ${item.title} to the history`, () => click(answer, item)),
        button("Block", `Block ${item.title}`, () => bar({ block: [id] }, `${item.title} is in no list from now on`))),
      reasons);
  }

  // Shows what makes up an item's score, or hides it again.
  async function why(pressed, reasons, message, id) {
    if (!reasons.firstChild) {
      const asked = await ask("POST", "admin/inspect", { ...message, explain: [id] });
      reasons.replaceChildren(...because(asked.why[0]));
    }
    reasons.hidden = !reasons.hidden;
    pressed.setAttribute("aria-expanded", String(!reasons.hidden));
  }

  function because(found) {
    const said = found.said ? [el("p", { class: "small muted" }, found.said)] : [];
    if (!found.parts.length) return said;
    const pairs = found.parts.map((one) => [one.beside ? `${one.name} × ${one.beside}` : one.name, one.contribution]);
    if (found.others) pairs.push([`${count(found.others)} smaller parts`, found.rest]);
    const rest = pairs.splice(PARTS), most = Math.abs(pairs[0][1]);
    const sum = rest.reduce((total, [, value]) => total + value, 0);
    return [
      ...said, bars(pairs, most),
      rest.length ? details(`${many(rest.length, "smaller part")}, together ${number(sum)}`, bars(rest, most)) : "",
      el("p", { class: "small muted" }, `together ${number(found.score, 4)}`),
    ];
  }

  // What a visitor does who takes an item of the list: whoever was shown goes on with it in their history.
  async function click(answer, item) {
    if (chosen() === "user") past.splice(0, past.length, ...[...answer.history].reverse());
    past.push(item);
    drawPast();
    who("history");
    await show();
  }

  function history(answer) {
    if (!answer.history.length) return null;
    const before = answer.history_length - answer.history.length;
    return details(`History, newest first: ${count(answer.history_length)} items`,
      el("ol", {}, answer.history.map((item) => el("li", {}, named(item)))),
      before ? el("p", { class: "muted" }, `and ${count(before)} before them`) : null);
  }

  function candidates(answer) {
    if (!answer.candidates.length) return null;
    const two = answer.candidates.some((one) => one.second_rank !== null);
    const several = answer.candidates.some((one) => Object.keys(one.sources).length);
    const from = (one) => Object.entries(one.sources).map((pair) => pair.join(" ")).join(", ");
    const heads = ["item", ...(several ? ["sources"] : []), "first stage", "score", ...(two ? ["second stage", "score"] : []), "in the list"];
    const cells = (one) => [
      ...(several ? [from(one)] : []), one.first_rank, number(one.first_score, 4),
      ...(two ? [one.second_rank ?? "–", number(one.second_score, 4)] : []), one.place ?? "–",
    ];
    const lines = answer.candidates.map((one) => el("tr", { class: one.place ? "in" : null },
      el("td", {}, named(one)), cells(one).map((cell) => el("td", {}, String(cell)))));
    const table = el("table", {},
      el("thead", {}, el("tr", {}, heads.map((head) => el("th", { scope: "col" }, head)))), el("tbody", {}, lines));
    const said = "Candidates by stage";
    return details(`${said}: ${count(answer.n_candidates)}`,
      el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": said }, table));
  }

  function keptOut(answer) {
    const rules = answer.rules.filter((one) => one.items)
      .map((one) => el("li", { class: "tag" }, `${RULES[one.rule] || one.rule}: ${count(one.items)} of the catalogue`));
    const lines = answer.kept_out.map((one) => el("li", { "data-kept-out": String(one.item_id) },
      el("span", { class: "place" }, String(one.rank)),
      el("span", { class: "title" }, named(one)),
      el("span", { class: "score" }, number(one.score, 4)),
      el("div", { class: "under" }, one.rules.map((rule) => tag(RULES[rule] || rule)))));
    const made = details(`Kept out before the last candidate: ${count(answer.kept_out.length)}`,
      el("ul", { class: "tags" }, rules), lines.length ? el("ol", { class: "ranked" }, lines) : null);
    made.open = !answer.items.length;
    return made;
  }

  $("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    doing(event.submitter, show);
  });
  finder($("find"), $("found"), (item) => {
    past.push(item);
    drawPast();
  });

  // -- versions -----------------------------------------------------------------------------------------------------

  async function versions(anyway = false) {
    const [found, status] = await Promise.all([ask("GET", "admin/slots"), ask("GET", "admin/status")]);
    $("state").textContent = `${status.state}, ${many(status.workers.length, "worker")}`;
    tile("version", status.version || "–");
    const text = JSON.stringify([found.slots, found.shadow]);
    // What somebody is about to use stays where it is, unless they used it.
    if (text === versions.drawn || (!anyway && $("slots").contains(document.activeElement))) return;
    versions.drawn = text;
    redraw($("slots"), found.slots.map((slot) => slotOf(slot, found.shadow)));
    const loaded = found.slots.filter((slot) => slot.version);
    const roles = loaded.map((slot) => [slot.role, `${ROLES[slot.role]}: ${slot.version}`]);
    options($("first"), roles, "serving");
    options($("second"), [["", "nothing"], ...roles.filter(([role]) => role !== "serving")], "");
  }

  function options(select, pairs, otherwise) {
    const kept = pairs.some(([value]) => value === select.value) ? select.value : otherwise;
    select.replaceChildren(...pairs.map(([value, text]) => el("option", { value, selected: value === kept }, text)));
  }

  function slotOf(slot, shadow) {
    const loading = slot.workers.filter((one) => one.state === "loading").length;
    const failed = slot.workers.filter((one) => one.state === "failed");
    const act = (text, path, message, said, kind = "small") =>
      button(text, null, () => change(path, message, said), kind);
    const actions = {
      serving: () => [],
      candidate: () => [act("Let it answer", "switch", {}, `${slot.version} answers from now on`)],
      former: () => [act("Roll back to it", "rollback", {}, `${slot.version} answers again`)],
    }[slot.role]();
    if (slot.role !== "serving") {
      actions.push(act("Let go", "unload", { role: slot.role }, `${slot.version} is let go`, "quiet small"));
    }
    return el("div", { class: `slot ${slot.role}`, "data-slot": slot.role },
      el("h3", {}, `${ROLES[slot.role]}: `, el("code", {}, slot.version || "loading …")),
      loading ? el("p", { class: "muted" }, `${many(loading, "worker")} loading`) : null,
      failed.map((one) => el("p", { class: "said" }, `worker ${one.worker}: ${one.error}`)),
      slot.role === "candidate" ? compared(shadow) : null,
      actions.length ? el("div", { class: "under" }, actions) : null);
  }

  // How the candidate compares with the live answers, and of how many of them.
  function compared(shadow) {
    const per = shadow ? Math.round(100 * shadow.share) : 10;
    const share = el("input", { type: "number", min: "0", max: "100", step: "1", value: per });
    const start = () => {
      const part = Number(share.value) / 100;
      const said = part ? `compared on ${share.value} % of the live requests` : "compared no more";
      return change("shadow", { share: part }, said);
    };
    const figures = shadow && [
      `Of ${many(shadow.lists, "list")} ${count(shadow.identical)} are identical in their first ten;`,
      `${count(shadow.shared)} of ${many(shadow.places, "item")} are shared;`,
      `${many(shadow.errors, "error")}, ${count(shadow.dropped)} dropped;`,
      `${number(shadow.shadow_s)} s of computing beside ${number(shadow.live_s)} s.`,
    ].join(" ");
    return el("div", {}, shadow ? el("p", { class: "small" }, figures) : null,
      el("div", { class: "under" }, el("label", {}, share, "% of the live requests"), button("Compare", null, start)));
  }

  async function change(path, message, said) {
    told(await ask("POST", `admin/${path}`, message), said);
    await versions(true);
    await again();
  }

  function told(found, said) {
    say(found.pending.length ? `${said}; workers ${found.pending.join(", ")} have yet to do it` : said);
  }

  $("load").addEventListener("submit", (event) => {
    event.preventDefault();
    const place = $("bundle").value.trim();
    doing(event.submitter, async () => {
      say(`${place} is being verified and loaded`);
      await change("load", { bundle: place }, `${place} is loaded beside`);
      $("bundle").value = "";
    });
  });

  // -- blocked items ------------------------------------------------------------------------------------------------

  async function blocklist() {
    drawBarred(await ask("GET", "admin/blocklist"));
  }

  async function bar(message, said) {
    const found = await ask("POST", "admin/blocklist", message);
    drawBarred(found);
    told(found, said);
    await again();
  }

  function drawBarred(found) {
    $("in-force").textContent = [
      `${many(found.in_force, "item")} in force, those of a watched file with them;`,
      `${count(found.unknown.length)} unknown to the version that answers.`,
      found.kept ? "" : "What is told here is forgotten when the server ends: it has no log folder.",
      found.file_error ? `The watched file is not in force as it stands: ${found.file_error}` : "",
    ].join(" ");
    const chips = [
      ...found.blocked.map((id) => [id, "unblock", ""]),
      ...found.unavailable.map((id) => [id, "available", " unavailable"]),
    ];
    const more = chips.length - CHIPS;
    redraw($("barred"), [
      ...chips.slice(0, CHIPS).map(([id, verb, what]) => el("li", { "data-barred": id },
        el("span", {}, id, el("span", { class: "muted" }, what)),
        button("×", `Show ${id} again`, () => bar({ [verb]: [id] }, `${id} may be shown again`)))),
      ...(more > 0 ? [el("li", { class: "muted" }, `and ${count(more)} more`)] : []),
    ]);
  }
  finder($("block"), $("block-found"), (item) =>
    doing(null, () => bar({ block: [String(item.item_id)] }, `${item.title} is in no list from now on`)));

  // -- live charts ---------------------------------------------------------------------------------------------------

  const points = [];    // {at, rate, p50, p99, failed, refused, kept, versions}
  let before = null;    // the metrics of the last look

  const LINE = /^(suisen_\w+)(?:\{(.*)\})? (\S+)$/, LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;
  const plain = (value) => value.replace(/\\(.)/g, (_, sign) => (sign === "n" ? "\n" : sign));

  // Prometheus' text: metric → [labels, value] of each of its lines.
  function parsed(text) {
    const found = new Map();
    for (const line of text.split("\n")) {
      const match = LINE.exec(line);
      if (!match) continue;
      const [, name, labels, value] = match;
      if (!found.has(name)) found.set(name, []);
      const pairs = [...(labels || "").matchAll(LABEL)].map(([, label, worth]) => [label, plain(worth)]);
      found.get(name).push([Object.fromEntries(pairs), Number(value)]);
    }
    return found;
  }

  // What the counters of a metric grew by, grouped; null where one fell, for then the server was started again.
  function grown(now, then, metric, group) {
    const sums = new Map();
    for (const [sign, side] of [[1, now], [-1, then]]) {
      for (const [labels, value] of side.get(metric) || []) {
        const name = group(labels);
        if (name !== null) sums.set(name, (sums.get(name) || 0) + sign * value);
      }
    }
    return [...sums.values()].some((value) => value < 0) ? null : sums;
  }

  // The quantile of a histogram from its cumulative counts, as Prometheus interpolates it; milliseconds.
  function quantile(buckets, share) {
    const bounds = [...buckets].map(([le, upTo]) => [le === "+Inf" ? Infinity : Number(le), upTo]);
    bounds.sort((one, other) => one[0] - other[0]);
    const wanted = bounds.length ? share * bounds[bounds.length - 1][1] : 0;
    if (!wanted) return null;
    let low = 0, under = 0;
    for (const [le, upTo] of bounds) {
      if (upTo >= wanted) {
        const part = le === Infinity ? 0 : (le - low) * (wanted - under) / (upTo - under);
        return 1000 * (low + part);
      }
      low = le;
      under = upTo;
    }
    return null;
  }

  const ofClients = (labels) => labels.route.startsWith("/v1/");

  // What happened between two looks at the metrics.
  function point(now, then, seconds) {
    const requests = grown(now, then, "suisen_requests_total", (one) => (ofClients(one) ? one.status[0] : null));
    const buckets = grown(now, then, "suisen_request_seconds_bucket", (one) => (ofClients(one) ? one.le : null));
    const rows = grown(now, then, "suisen_row_queries_total", (one) => one.row);
    const queries = grown(now, then, "suisen_queries_total", (one) => one.version);
    const sum = (part) => [...part.values()].reduce((one, other) => one + other, 0);
    const per = (part, name) => (part === null ? null : (part.get(name) || 0) / seconds);
    return {
      rate: requests && sum(requests) / seconds, failed: per(requests, "5"), refused: per(requests, "4"),
      p50: buckets && quantile(buckets, 0.5), p99: buckets && quantile(buckets, 0.99),
      kept: rows && sum(rows) ? (100 * (rows.get("kept") || 0)) / sum(rows) : null,
      versions: new Map([...(queries || [])].map(([version, value]) => [version, value / seconds])),
    };
  }

  // At most three versions, those that answered last first.
  function answering() {
    const found = new Set();
    for (const one of [...points].reverse()) {
      for (const [version, rate] of one.versions) if (rate > 0) found.add(version);
    }
    return [...found].slice(0, 3);
  }

  const CHARTS = [
    { title: "Requests per second", lines: () => [["all of /v1", (one) => one.rate]] },
    { title: "Time to an answer, ms", lines: () => [["p50", (one) => one.p50], ["p99", (one) => one.p99]] },
    { title: "Errors per second", lines: () => [["4xx", (one) => one.refused], ["5xx", (one) => one.failed]] },
    { title: "Rows kept, % of queries", most: 100, lines: () => [["of the plan’s visitors", (one) => one.kept]] },
    { title: "Queries per second by version", lines: () =>
      answering().map((version) => [version, (one) => one.versions.get(version) ?? null]) },
  ];
  const LEFT = 44, TOP = 8, FLOOR = 110, SPAN = (KEPT - 1) * EVERY_MS;   // pixels, and milliseconds of a chart's width

  for (const chart of CHARTS) {
    chart.caption = el("figcaption");
    chart.picture = svg("svg", { role: "img" });
    chart.at = null;    // the place of the point that the pointer is at
    chart.picture.addEventListener("pointermove", (event) => {
      const box = chart.picture.getBoundingClientRect();
      chart.at = placeOf((event.clientX - box.left - LEFT) / Math.max(1, box.width - LEFT));
      draw(chart);
    });
    chart.picture.addEventListener("pointerleave", () => {
      chart.at = null;
      draw(chart);
    });
    $("charts").append(el("figure", {}, chart.caption, chart.picture));
  }

  const newest = () => (points.length ? points[points.length - 1].at : Date.now());
  const real = (value) => value !== null && value !== undefined && Number.isFinite(value);

  // The place of the point nearest to a share of a chart's width.
  function placeOf(share) {
    const away = (one) => Math.abs(one.at - newest() + (1 - share) * SPAN);
    return points.reduce((best, one, place) => (best === null || away(one) < away(points[best]) ? place : best), null);
  }

  // The next of 1, 2, 5 × 10ⁿ.
  function round(value) {
    const ten = 10 ** Math.floor(Math.log10(value));
    return ten * [1, 2, 5, 10].find((one) => one * ten >= value * 0.999999);
  }

  function draw(chart) {
    const lines = chart.lines(), wide = chart.picture.clientWidth || 300;
    const values = lines.flatMap(([, of]) => points.map(of)).filter(real);
    const most = chart.most || round(Math.max(...values, 0) || 1);
    const x = (at) => LEFT + (wide - LEFT) * (1 - (newest() - at) / SPAN);
    const y = (value) => FLOOR - ((FLOOR - TOP) * value) / most;
    const shown = points[chart.at ?? points.length - 1];
    const parts = axes(wide, most, y);
    lines.forEach(([, of], series) => {
      const path = pathOf(points.map((one) => [x(one.at), of(one)]), y);
      if (path) parts.push(svg("path", { class: `s${series}`, d: path }));
    });
    if (chart.at !== null && shown) {
      parts.push(svg("line", { class: "cross", x1: x(shown.at), x2: x(shown.at), y1: TOP, y2: FLOOR }));
    }
    chart.picture.replaceChildren(...parts);
    const told = lines.map(([name, of]) => [name, number(shown ? of(shown) : null)]);
    const ago = chart.at !== null && shown ? `, ${Math.round((newest() - shown.at) / 1000)} s ago` : "";
    const words = told.map((pair) => pair.join(" ")).join(", ");
    chart.picture.setAttribute("aria-label", `${chart.title}${ago}: ${words || "nothing yet"}`);
    chart.caption.replaceChildren(el("b", {}, chart.title + ago), ...told.map(([name, value], series) =>
      el("span", { title: name }, el("i", { class: `key s${series}` }), `${name} `, el("b", {}, value))));
  }

  function axes(wide, most, y) {
    const word = (given, text) => {
      const made = svg("text", given);
      made.textContent = text;
      return made;
    };
    return [
      ...[0, most / 2, most].flatMap((value) => [
        svg("line", { class: "grid", x1: LEFT, x2: wide, y1: y(value), y2: y(value) }),
        word({ x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, number(value)),
      ]),
      word({ x: LEFT, y: FLOOR + 16, "text-anchor": "start" }, "5 min ago"),
      word({ x: wide, y: FLOOR + 16, "text-anchor": "end" }, "now"),
    ];
  }

  // A line through what is there, broken where nothing is; a point alone is a dot.
  function pathOf(places, y) {
    let path = "", pen = false;
    for (const [at, value] of places) {
      if (real(value)) path += `${pen ? "L" : "M"}${at.toFixed(1)} ${y(value).toFixed(1)}${pen ? "" : "h.01"}`;
      pen = real(value);
    }
    return path;
  }

  async function live() {
    let text;
    try {
      text = await ask("GET", "metrics");
    } catch (error) {
      before = null;
      const keyed = error.status === 401 || error.status === 403;
      const said = error.message;
      $("live-said").textContent = keyed ? `Charts need a key that is allowed metrics: ${said}` : said;
      return;
    }
    $("live-said").textContent = "";
    const now = { at: Date.now(), found: parsed(text) };
    if (before !== null) {
      points.push({ at: now.at, ...point(now.found, before.found, (now.at - before.at) / 1000) });
      if (points.length > KEPT) points.shift();
    }
    before = now;
    CHARTS.forEach(draw);
    const shown = points[points.length - 1];
    if (!shown) return;
    for (const name of ["rate", "p99", "failed"]) tile(name, number(shown[name]));
    tile("kept", real(shown.kept) ? `${number(shown.kept)} %` : "–");
  }

  // -- the clock -----------------------------------------------------------------------------------------------------

  let running = 0;      // the number of the round that goes on; every other ends
  function stop() {
    running += 1;
  }
  async function start() {
    const mine = ++running;
    for (let turn = 1; mine === running; turn += 1) {
      if (document.visibilityState === "visible") {
        await live();
        if (turn % SLOTS_EVERY === 0 && mine === running) await doing(null, versions);
      }
      await new Promise((after) => { setTimeout(after, EVERY_MS); });
    }
  }
  window.addEventListener("resize", () => CHARTS.forEach(draw));

  who("user");
  unlocked();
})();

"use strict";
// The documents' explorer. Details are one line of JSON a document, read when it is opened: parsing all of
// them would take seconds. Everything that comes from a run is set as text, never as markup.
const index = JSON.parse(document.getElementById("index").textContent);
const lines = document.getElementById("details").textContent.split("\n");
const [list, pane, shown, find, choice, count] =
  ["list", "window", "document", "find", "class", "count"].map((id) => document.getElementById(id));
const HEIGHT = 52; // of a row, as the style has it
let rows = index.rows.map((_, number) => number); // those that pass the filter
let at = -1; // which of them is open

function make(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
  made.append(...children.filter((child) => child !== null && child !== undefined).map((child) =>
    child instanceof Node ? child : String(child)));
  return made;
}

function draw() { // only the rows that can be seen
  const first = Math.max(0, Math.floor(list.scrollTop / HEIGHT) - 5);
  const last = Math.min(rows.length, first + Math.ceil(list.clientHeight / HEIGHT) + 10);
  pane.style.height = `${rows.length * HEIGHT}px`;
  pane.replaceChildren(...rows.slice(first, last).map((number, offset) => {
    const [id, title, classes] = index.rows[number];
    const place = first + offset;
    const row = make("div", { role: "option", id: `row-${place}`, class: "row", "aria-selected": place === at,
      style: `top:${place * HEIGHT}px`, "aria-setsize": rows.length, "aria-posinset": place + 1 },
    make("b", {}, title ? `${id}: ${title}` : id), make("span", {}, classes.map((one) => index.classes[one]).join(", ")));
    row.addEventListener("click", () => open(place));
    return row;
  }));
}

function filter() {
  const words = find.value.toLowerCase();
  const wanted = choice.value === "" ? null : Number(choice.value);
  rows = index.rows.flatMap(([id, title, classes], number) =>
    (wanted === null || classes.includes(wanted)) && `${id} ${title}`.toLowerCase().includes(words) ? [number] : []);
  at = -1;
  list.removeAttribute("aria-activedescendant");
  list.scrollTop = 0;
  count.textContent = `${rows.length.toLocaleString("en")} of ${index.rows.length.toLocaleString("en")}`;
  draw();
}

function open(place) {
  if (!rows.length) return;
  at = Math.min(Math.max(place, 0), rows.length - 1);
  const top = at * HEIGHT;
  if (top < list.scrollTop) list.scrollTop = top;
  if (top + HEIGHT > list.scrollTop + list.clientHeight) list.scrollTop = top + HEIGHT - list.clientHeight;
  draw();
  list.setAttribute("aria-activedescendant", `row-${at}`);
  shown.replaceChildren(...content(index.rows[rows[at]][0], JSON.parse(lines[rows[at]])));
  shown.scrollTop = 0;
}

function label(number, right, filtered) { // right and wrong by a mark and a word, not by colour alone
  const [id, name] = index.labels[number];
  const text = name === id ? name : `${name} (${id})`;
  if (right === null || filtered.has(number)) return make("span", {}, text);
  const hit = right.has(number);
  return make("span", { class: hit ? "good" : "" }, hit ? `✓ ${text}` : text, hit ? make("small", {}, " right") : null);
}

const figure = (value) => value === null || value === undefined ? "" : Number(value).toPrecision(3);

function content(id, one) {
  const right = one.gold && new Map(one.gold);
  const filtered = new Set(one.filtered);
  const named = (number) => label(number, right, filtered);
  const lists = (items) => make("ul", { class: "tags" }, ...items);
  const part = (heading, ...children) => [make("h3", {}, heading), ...children];
  const wrong = (number) => right !== null && !right.has(number) && !filtered.has(number);
  return [
    make("h2", {}, id),
    ...(one.failure ? [make("p", { class: "bad" }, `${one.failure.phase} failed (${one.failure.kind}): ${one.failure.message}`)] : []),
    make("pre", { tabindex: "0", "aria-label": "Text" }, one.text || "The text is in the log, which is not here."),
    ...(one.truncated ? [make("p", { class: "note" }, `Only the beginning of ${one.truncated.toLocaleString("en")} characters was read.`)] : []),
    ...part("Chosen", one.chosen.length ? lists(one.chosen.map(([number, score, reason]) => make("li", {},
      wrong(number) ? make("span", { class: "bad" }, "✗ ", named(number), make("small", {}, " wrong")) : named(number),
      make("small", {}, ` ${figure(score)} ${reason}`)))) : make("p", { class: "note" }, "No label.")),
    ...(one.gold ? part("Right labels", lists(one.gold.map(([number, fate]) => make("li", {},
      fate === "chosen" ? "✓ " : "– ", label(number, null, filtered),
      make("small", { class: fate === "chosen" ? "good" : "bad" }, ` ${fate}`))))) : []),
    ...one.thoughts.flatMap(({ phase, text }) => part(`Reasoning, phase ${phase}`, make("pre", { tabindex: "0" }, text))),
    ...part("Searches", ...one.searches.map((search) => make("details", search.turn ? {} : { open: "" },
      make("summary", {}, search.turn ? `“${search.query}” (turn ${search.turn}): ${search.total} found` : `The document itself, in ${search.source}: ${search.total} found`),
      lists(search.found.map(([number, rank]) => make("li", {}, `${rank}. `, named(number))))))),
    ...part("Shortlist", table(["", "label", "fused", "selector", "found by"], one.shortlist.map(([number, fused, score, by], place) =>
      [place + 1, named(number), figure(fused), figure(score),
        by.map(([source, query, rank]) => `${query ? `“${query}”` : source} #${rank}`).join(", ")]))),
    ...part("Cost", table(["phase", "calls", "tokens in", "tokens out", "seconds"], Object.entries(one.usage).map(([phase, usage]) =>
      [phase, usage.calls, usage.prompt_tokens, usage.completion_tokens, usage.seconds.toFixed(2)]))),
  ];
}

function table(headings, cells) {
  return make("div", { class: "scroll" }, make("table", {},
    make("thead", {}, make("tr", {}, ...headings.map((text) => make("th", { scope: "col" }, text)))),
    make("tbody", {}, ...cells.map((row) => make("tr", {}, ...row.map((cell) => make("td", {}, cell)))))));
}

const moves = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -Infinity, End: Infinity };
list.addEventListener("keydown", (event) => {
  if (event.key in moves) { open(at < 0 && event.key !== "End" ? 0 : Math.max(at, 0) + moves[event.key]); event.preventDefault(); }
  if (event.key === "Enter") shown.querySelector("pre").focus();
});
list.addEventListener("scroll", draw);
window.addEventListener("resize", draw);
find.addEventListener("input", filter);
choice.addEventListener("change", filter);
index.classes.forEach((name, number) => {
  const size = index.rows.filter((row) => row[2].includes(number)).length;
  if (size) choice.append(make("option", { value: number }, `${name} (${size.toLocaleString("en")})`));
});
filter();

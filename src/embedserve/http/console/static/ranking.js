/** The playground's answer: texts ranked, three scores side by side, tokens alight. */

import { $, duration, make, number, paint, score } from "./dom.js";
import { Lights } from "./lights.js";
import { compare, shared } from "./vectors.js";

const SHOWN_SHARED = 6;
const PAGE = 40; // rows at a time: three hundred would make a page of 24,000 pixels
const LONG = 1_000; // characters; longer texts scroll in a box of their own
const NAMES = { dense: "dense", sparse: "sparse", sum: "dense + 0.05·sparse" };

let lights;
let current = null;
let shown = PAGE;
let onOrder = () => {};

function bar(kind, width, extra = 0) {
  const element = paint(make("span", { class: `meter ${kind}`, "aria-hidden": "true" }), {
    width: `${(100 * Math.max(0, width)).toFixed(1)}%`,
    extra: `${(100 * extra).toFixed(1)}%`,
  });
  element.append(make("i"), make("b"));
  return element;
}

function scores(item, scale) {
  const { dense, sparse, sum } = item.scores;
  const cell = (kind, value, meter) =>
    make("div", { class: kind }, make("dt", {}, NAMES[kind]), make("dd", {}, score(value)), meter);
  return make(
    "dl",
    { class: "scores" },
    cell("dense", dense, bar("dense", scale.dense(dense))),
    cell("sparse", sparse, bar("sparse", sparse / (scale.sparse || 1))),
    cell("sum", sum, bar("sum", scale.dense(dense), scale.dense(sum) - scale.dense(dense))),
  );
}

/** Bars of dense and of the sum share one scale, so that the sum is seen to be the dense bar and a bit. */
function scaleOf(items) {
  const low = Math.min(...items.map(({ scores }) => scores.dense));
  const high = Math.max(...items.map(({ scores }) => scores.sum));
  const span = high - low || 1;
  return {
    dense: (value) => 0.06 + (0.94 * (value - low)) / span,
    sparse: Math.max(...items.map(({ scores }) => scores.sparse)),
  };
}

function commonLine(common) {
  if (!common.length) return make("p", { class: "common none" }, "no token in common with the query");
  const shown = common.slice(0, SHOWN_SHARED).flatMap(({ token, index, product }, i) => [
    i ? " · " : "",
    make("span", { class: "term", "data-index": index }, token, " ", make("b", {}, product.toFixed(3))),
  ]);
  const rest = common.length - SHOWN_SHARED;
  return make("p", { class: "common" }, "in common: ", ...shown, rest > 0 ? ` and ${rest} more` : "");
}

function row(item, place, scale) {
  const body = make("div", { class: "body" });
  const long = item.row.text.length > LONG;
  body.append(make("p", { class: long ? "text long" : "text", dir: "auto", "data-line": true }, ...item.nodes));
  if (item.row.error) {
    body.append(make("p", { class: "common bad" }, `${item.row.error.code}: ${item.row.error.message}`));
  } else if (item.scores) {
    body.append(commonLine(item.common));
  }
  const element = make("li", { "data-row": item.number });
  element.append(make("span", { class: "place", "aria-hidden": "true" }, String(place)), body);
  if (item.scores) element.append(scores(item, scale));
  paint(element, { name: `row-${item.number}` });
  return element;
}

function order(by) {
  const { items, query } = current;
  if (!query) return items;
  return items.toSorted((a, b) => b.scores[by] - a.scores[by] || a.number - b.number);
}

function list() {
  const by = document.querySelector("#rank-by input:checked").value;
  const { items, query } = current;
  const scale = query && items.length ? scaleOf(items) : null;
  $("ranked").dataset.by = by;
  const ordered = order(by);
  $("ranked").replaceChildren(...ordered.slice(0, shown).map((item, i) => row(item, i + 1, scale)));
  const left = ordered.length - shown;
  $("more").hidden = left <= 0;
  $("more").textContent = `${Math.min(left, PAGE)} more of ${number(left)} below`;
  onOrder(query, ordered.map((item) => item.row));
}

/** What the lit token adds to each score. */
function tell(index) {
  for (const term of document.querySelectorAll(".term")) {
    term.classList.toggle("lit", Number(term.dataset.index) === index);
  }
  const readout = $("readout");
  if (index === null || !current) {
    readout.replaceChildren();
    for (const element of document.querySelectorAll("#ranked > li")) element.classList.remove("touched");
    return;
  }
  const { items, query } = current;
  const having = items.filter(({ row }) => row.weights.has(index));
  for (const element of document.querySelectorAll("#ranked > li")) {
    element.classList.toggle("touched", having.some(({ number }) => String(number) === element.dataset.row));
  }
  const rows = query ? [query, ...items.map((item) => item.row)] : items.map((item) => item.row);
  const { token } = rows.flatMap((row) => row.sparse).find((entry) => entry.index === index);
  const weight = query?.weights.get(index);
  const texts = `${having.length} of ${items.length} texts`;
  readout.replaceChildren(
    make("strong", {}, token),
    make("span", {}, `index ${index}`),
    weight === undefined
      ? make("span", {}, query ? "not in the query" : "")
      : make("span", {}, `weighs ${weight.toFixed(4)} in the query`),
    make("span", {}, `in ${texts}`),
  );
}

/**
 * @param query row of vectors.readRow, or null
 * @param rows of the texts, in the order they were given
 * @param bill {milliseconds, tokens, requests}
 */
export function showRanking(query, rows, bill) {
  lights ??= new Lights($("ranking"), tell);
  lights.clear();
  const asked = new Set(query ? query.weights.keys() : []);
  const items = rows.map((row, i) => ({
    number: i + 1,
    row,
    nodes: lights.write(row, asked),
    scores: query && compare(query, row),
    common: query ? shared(query, row) : [],
  }));
  current = { query, items };
  shown = PAGE;
  tell(null);
  const everywhere = new Set(rows.flatMap((row) => [...row.weights.keys()]));
  document.querySelector(".asked").hidden = !query;
  $("asked").dataset.line = "";
  $("asked").replaceChildren(...(query ? lights.write(query, everywhere) : []));
  $("rank-by").hidden = !query;
  $("ranking-title").textContent = query ? "Ranking" : "Texts";
  $("bill").replaceChildren(
    make("b", {}, duration(bill.milliseconds)),
    ` · ${number(bill.tokens)} tokens · ${bill.requests} request${bill.requests === 1 ? "" : "s"}`,
  );
  $("ranking").hidden = false;
  list();
}

/** @param listener called with the query's row and the texts' rows in their new order */
export function watchRanking(listener) {
  onOrder = listener;
  $("more").addEventListener("click", () => {
    const first = shown;
    shown += PAGE;
    list();
    $("ranked").children[first]?.querySelector(".token")?.focus({ preventScroll: true });
  });
  $("rank-by").addEventListener("change", () => {
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    if (document.startViewTransition && !calm) document.startViewTransition(list);
    else list();
  });
}

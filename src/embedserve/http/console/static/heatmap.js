/** Every text against every other. */

import { $, make, number, paint, score } from "./dom.js";
import { compare, shared } from "./vectors.js";

const MOST = 40;
const SHORT = 34;

let current = null;

const clip = (text) => (text.length > SHORT ? `${[...text].slice(0, SHORT - 1).join("")}…` : text);

/** Colours run over the values off the diagonal: e5's cosines live in a narrow band. */
function rangeOf(cells, kind) {
  const values = cells.flatMap((line, i) => line.filter((_, j) => i !== j).map((cell) => cell[kind]));
  const low = Math.min(...values);
  return { low, span: Math.max(...values) - low || 1 };
}

function draw() {
  const kind = document.querySelector("#map-of input:checked").value;
  const { rows, names, cells } = current;
  const { low, span } = rangeOf(cells, kind);
  const head = make("tr", {}, make("td", {}), ...names.map((name) => make("th", { scope: "col" }, name)));
  const lines = cells.map((line, i) =>
    make(
      "tr",
      {},
      make(
        "th",
        { scope: "row", title: rows[i].text },
        make("b", {}, names[i]),
        make("span", { dir: "auto" }, clip(rows[i].text)),
      ),
      ...line.map((cell, j) => {
        const share = i === j ? 1 : Math.min(1, Math.max(0, (cell[kind] - low) / span));
        const element = make(
          "td",
          { class: i === j && "self", "data-pair": `${i},${j}` },
          cell[kind].toFixed(2),
        );
        return paint(element, { share: share.toFixed(3) });
      }),
    ),
  );
  $("map").dataset.kind = kind;
  $("map").replaceChildren(make("thead", {}, head), make("tbody", {}, ...lines));
  point(current.pair);
}

/** The pair under the pointer, in words. */
function point(pair) {
  current.pair = pair;
  const [i, j] = pair;
  const { rows, names, cells } = current;
  for (const cell of $("map").querySelectorAll(".pointed")) cell.classList.remove("pointed");
  $("map").querySelector(`[data-pair="${i},${j}"]`)?.classList.add("pointed");
  const { dense, sparse, sum } = cells[i][j];
  const common = shared(rows[i], rows[j]);
  const line = (k) => make("p", {}, make("b", {}, names[k]), make("span", { dir: "auto" }, rows[k].text));
  const tokens = common.length ? common.slice(0, 8).map(({ token }) => token).join(" · ") : "none";
  const facts = {
    dense: score(dense),
    sparse: score(sparse),
    "dense + 0.05·sparse": score(sum),
    "tokens in common": i === j ? "all" : tokens,
  };
  const said = Object.entries(facts).map(([name, value]) =>
    make("div", {}, make("dt", {}, name), make("dd", {}, value)),
  );
  $("pair").replaceChildren(...(i === j ? [line(i)] : [line(i), line(j)]), make("dl", {}, ...said));
}

/**
 * @param query row of vectors.readRow, or null
 * @param answers rows of the texts in the order of the ranking, so that the numbers here are the places there
 */
export function showMap(query, answers) {
  const usable = [query, ...answers].filter((row) => row && !row.error);
  $("likeness").hidden = usable.length < 2;
  if (usable.length < 2) return;
  const kept = usable.slice(0, MOST);
  const names = kept.map((_, i) => (query ? (i ? String(i) : "Q") : String(i + 1)));
  const cells = kept.map((a) => kept.map((b) => compare(a, b)));
  current = { rows: kept, names, cells, pair: [0, 1] };
  $("likeness-title").textContent =
    usable.length > MOST
      ? `Similarity of the first ${MOST} of ${number(usable.length)} texts`
      : "Similarity of all texts";
  draw();
}

const ARROWS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

function move(event) {
  const step = ARROWS[event.key];
  if (!step) return;
  event.preventDefault();
  const last = current.rows.length - 1;
  point(current.pair.map((at, axis) => Math.min(last, Math.max(0, at + step[axis]))));
  $("map").querySelector(".pointed").scrollIntoView({ block: "nearest", inline: "nearest" });
}

export function watchMap() {
  $("map").closest(".scroll").addEventListener("keydown", move);
  $("map-of").addEventListener("change", draw);
  for (const kind of ["pointerover", "click"]) {
    $("map").addEventListener(kind, (event) => {
      const pair = event.target.closest?.("[data-pair]")?.dataset.pair;
      if (pair) point(pair.split(",").map(Number));
    });
  }
}

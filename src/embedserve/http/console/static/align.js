/**
 * Finds a text's sparse tokens in the text itself.
 *
 * The reply names tokens as the lexical side sees them: compatibility forms, case folded, each once, without
 * positions. So the text is folded the same way, remembering where each folded character came from, and then
 * covered with the tokens: as few characters left over as possible, as few tokens as possible.
 */

const FOLDS = { ß: "ss", ẞ: "ss", ς: "σ" }; // where case folding is more than lower case
const LETTER = /[\p{L}\p{N}\p{M}]/u;
const ALPHABETIC = /[\p{Script=Latin}\p{Script=Cyrillic}\p{Script=Greek}]/u;
const GAP = 4; // a letter no token covers costs as much as four tokens

const fold = (part) => part.normalize("NFKC").toLowerCase().replace(/[ßẞς]/g, (letter) => FOLDS[letter]);

/** Folded UTF-16 units, and for each the range of the text that it stands for. */
function foldText(text) {
  const units = [];
  const add = (part, at) => {
    for (const unit of fold(part).split("")) units.push({ unit, start: at, end: at + part.length });
  };
  for (const { segment, index } of new Intl.Segmenter().segment(text)) {
    const points = [...segment];
    if (points.map(fold).join("") !== fold(segment)) {
      add(segment, index); // base and marks that become one character
      continue;
    }
    let at = index;
    for (const point of points) {
      add(point, at);
      at += point.length;
    }
  }
  return units;
}

/** The cheapest cover of the folded text: [{start, end, entry}] in folded units. */
function cover(folded, entries) {
  const known = new Map(entries.map((entry) => [fold(entry.token), entry]));
  known.delete("");
  const longest = Math.max(0, ...[...known.keys()].map((token) => token.length));
  const cost = new Float64Array(folded.length + 1);
  const step = new Uint16Array(folded.length);
  for (let at = folded.length - 1; at >= 0; at--) {
    cost[at] = cost[at + 1] + (LETTER.test(folded[at]) ? GAP : 0);
    for (let length = Math.min(longest, folded.length - at); length > 0; length--) {
      if (cost[at + length] + 1 < cost[at] && known.has(folded.slice(at, at + length))) {
        cost[at] = cost[at + length] + 1;
        step[at] = length;
      }
    }
  }
  const found = [];
  for (let at = 0; at < folded.length; at += step[at] || 1) {
    if (step[at]) found.push({ start: at, end: at + step[at], entry: known.get(folded.slice(at, at + step[at])) });
  }
  return found;
}

/** A lone letter inside a word whose rest is not covered is chance, not a token. */
function isChance({ start, end }, folded, covered) {
  if (end - start > 1 || !ALPHABETIC.test(folded[start])) return false;
  const loose = (at) => at >= 0 && at < folded.length && !covered.has(at) && ALPHABETIC.test(folded[at]);
  return loose(start - 1) || loose(end);
}

/**
 * @param text as it was sent
 * @param entries its sparse embedding: [{index, value, token}]
 * @returns {{parts: {text: string, entry?: object}[], missing: object[]}} the text in pieces, in order, those
 *   that are tokens with their entry; and entries that could not be placed.
 */
export function align(text, entries) {
  const units = foldText(text);
  const folded = units.map(({ unit }) => unit).join("");
  const found = cover(folded, entries);
  const covered = new Set();
  for (const { start, end } of found) for (let unit = start; unit < end; unit++) covered.add(unit);
  const parts = [];
  const placed = new Set();
  let at = 0;
  for (const span of found) {
    const start = units[span.start].start;
    const end = units[span.end - 1].end;
    if (start < at || isChance(span, folded, covered)) continue;
    if (start > at) parts.push({ text: text.slice(at, start) });
    parts.push({ text: text.slice(start, end), entry: span.entry });
    placed.add(span.entry);
    at = end;
  }
  if (at < text.length) parts.push({ text: text.slice(at) });
  return { parts, missing: entries.filter((entry) => !placed.has(entry)) };
}

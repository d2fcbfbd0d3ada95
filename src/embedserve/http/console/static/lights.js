/** Texts as rows of tokens that light up together: one token anywhere, all its like everywhere. */

import { align } from "./align.js";
import { make, paint } from "./dom.js";

const STEPS = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -Infinity, End: Infinity };
const MIRROR = { ArrowLeft: "ArrowRight", ArrowRight: "ArrowLeft" };

export class Lights {
  /**
   * @param stage the element that dims while a token is lit
   * @param onChange called with the lit token's index, or null
   */
  constructor(stage, onChange) {
    this.stage = stage;
    this.onChange = onChange;
    this.clear();
    stage.addEventListener("pointerover", (event) => this.#point(event.target));
    stage.addEventListener("pointerleave", () => this.#show(this.held));
    stage.addEventListener("focusin", (event) => this.#point(event.target));
    stage.addEventListener("focusout", () => this.#show(this.held));
    stage.addEventListener("click", (event) => this.#hold(event.target));
    stage.addEventListener("keydown", (event) => this.#press(event));
  }

  /** Forget all tokens, before a new result. */
  clear() {
    this.lit = this.held = null;
    this.elements = new Map();
    this.stage.classList.remove("lighting");
  }

  /**
   * The text, its tokens glowing by weight.
   * @param row of vectors.readRow
   * @param marked indices to underline
   */
  write(row, marked = new Set()) {
    const { parts, missing } = align(row.text, row.sparse);
    const nodes = parts.map(({ text, entry }) => (entry ? this.token(entry, text, marked) : text));
    if (missing.length) {
      const also = missing.map((entry) => this.token(entry, entry.token, marked));
      nodes.push(make("span", { class: "also", title: "tokens whose place in the text is not certain" }, ...also));
    }
    const first = nodes.find((node) => node instanceof Element && node.matches(".token"));
    if (first) first.tabIndex = 0; // one stop a text; arrows go on from there
    return nodes;
  }

  token({ index, value, token }, text, marked = new Set()) {
    const element = make(
      "span",
      {
        class: marked.has(index) ? "token marked" : "token",
        role: "button",
        tabindex: -1,
        "aria-pressed": "false",
        "aria-label": `${text}, weight ${value.toFixed(2)}`,
        title: `${token} · weight ${value.toFixed(4)} · index ${index}`,
        "data-index": index,
      },
      text,
    );
    paint(element, { weight: Math.min(1, Math.max(0.06, value)).toFixed(3) });
    this.elements.set(index, [...(this.elements.get(index) ?? []), element]);
    return element;
  }

  #indexOf(target) {
    const token = target instanceof Element ? target.closest("[data-index]") : null;
    return token ? Number(token.dataset.index) : null;
  }

  #point(target) {
    this.#show(this.#indexOf(target) ?? this.held);
  }

  #hold(target) {
    const index = this.#indexOf(target);
    if (index === null) return;
    const before = this.held;
    this.held = before === index ? null : index;
    for (const element of this.elements.get(before) ?? []) element.setAttribute("aria-pressed", "false");
    for (const element of this.elements.get(this.held) ?? []) element.setAttribute("aria-pressed", "true");
    this.#show(this.held);
  }

  #show(index) {
    if (index === this.lit) return;
    for (const element of this.elements.get(this.lit) ?? []) element.classList.remove("lit");
    this.lit = index;
    for (const element of this.elements.get(index) ?? []) element.classList.add("lit");
    this.stage.classList.toggle("lighting", index !== null);
    this.onChange(index);
  }

  #press(event) {
    const token = event.target.closest?.(".token");
    if (event.key === "Escape" && this.lit !== null) {
      if (this.held !== null) this.#hold(this.elements.get(this.held)[0]);
      this.#show(null);
      return;
    }
    if (!token) return;
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      this.#hold(token);
      return;
    }
    const line = token.closest("[data-line]");
    const mirrored = getComputedStyle(line).direction === "rtl" && MIRROR[event.key];
    const step = STEPS[mirrored || event.key];
    if (step === undefined) return;
    event.preventDefault();
    const tokens = [...line.querySelectorAll(".token")];
    const to = tokens[Math.min(tokens.length - 1, Math.max(0, tokens.indexOf(token) + step))];
    token.tabIndex = -1;
    to.tabIndex = 0;
    to.focus();
  }
}

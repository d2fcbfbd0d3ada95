/**
 * What the console opens with: a code and a complaint, notes in seven languages.
 *
 * Neither side has it alone. Dense vectors put the complaint under another code first, and find the Japanese one
 * that shares no word; sparse ones put the four notes about this very code first, whatever their language.
 */

export const QUERY = "E4471, water leaks from the coffee machine";

export const TEXTS = [
  "E4417: water drips from the machine, close the tank.",
  "E4471: replace the seal of the boiler.",
  "E4714: Wasser tritt aus, den Tank schließen.",
  "E4471 表示密封圈坏了，请更换。",
  "E4471 : le joint est usé, remplacez-le.",
  "コーヒーメーカーから水が漏れています。",
  "A puddle under the coffee machine? Check the hose.",
  "E4471 означает износ уплотнения, замените его.",
  "La garantía cubre dos años.",
];

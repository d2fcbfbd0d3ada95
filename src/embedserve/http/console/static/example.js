/** What the console opens with: one question, reviews in several languages. */

export const QUERY = "shoes that fell apart after a few weeks";

export const TEXTS = [
  "Lovely colour and very comfortable, I wear these shoes every day.",
  "鞋子穿了两个星期就开胶了，质量太差。",
  "La entrega fue rápida y el paquete llegó bien protegido.",
  "The sole of these shoes came off after two weeks. Very disappointed.",
  "Diese Schuhe sind nach drei Wochen auseinandergefallen.",
  "カメラの画質がとても良く、夜景もきれいに撮れます。",
  "Les chaussures se sont décousues au bout d’un mois, très déçu.",
  "وصل الهاتف بسرعة والبطارية تدوم يومين.",
  "Батарея держит два дня, экран яркий, телефоном довольна.",
];

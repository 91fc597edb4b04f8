"use strict";
// Shows the cases that stand in the page as JSON. Every text goes into the page as text, never as HTML.
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const BATCH = 12;
  const UNITS = { tglu: "text", vdlu: "image", cmfu: "cross-modal", multimodal: "multimodal", text: "text", visual: "visual" };
  const EDGES = { tt: "text–text", ti: "text–image", it: "image–text", ii: "image–image" };
  const ROLES = { objects: "objects", faces: "faces", identities: "recognised names" };

  // el("p", {class: "note", text: "..."}, child, ...) makes an element; null children are left out.
  function el(name, attributes, ...children) {
    return filled(document.createElement(name), attributes, children);
  }
  function drawn(name, attributes, ...children) {
    return filled(document.createElementNS(SVG, name), attributes, children);
  }
  function filled(node, attributes, children) {
    for (const [key, value] of Object.entries(attributes || {})) {
      if (value === null || value === undefined || value === false) continue;
      if (key === "text") node.textContent = value;
      else node.setAttribute(key, value === true ? "" : value);
    }
    for (const child of children) if (child !== null && child !== undefined) node.append(child);
    return node;
  }
  function plain(text) { // as foundation/spelling.py folds: vowel signs stay, accents and what nobody sees go
    const invisible = /(?![\t-\r\x1c-\x1f\x85])[\p{Cf}\p{Cc}\u034f\u0640\u07fa\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u3164\uffa0\ufe00-\ufe0f\u{e0100}-\u{e01ef}]/gu;
    const accents =
      /(?=\p{M})(?![\u3099\u309a])[\p{Script=Inherited}\p{Script=Cyrillic}\p{Script=Hebrew}\p{Script=Arabic}\p{Script=Syriac}\p{Script=Samaritan}\p{Script=Nko}]/gu;
    const others = [
      ["'", /[`\u2018\u2019\u201a\u201b\u2032\u2035\u02b9\u02bb-\u02bf\u02c8\u055a\u05f3\ua78c]/g],
      ['"', /[\u201c-\u201f\u2033\u05f4\u301d\u301e]/g],
      ["-", /[\u2010-\u2015\u2212\u05be]/g],
      ["ss", /ß/g], ["σ", /ς/g], ["o", /ø/g], ["d", /[đðɖɗ]/g], ["l", /ł/g], ["h", /ħ/g], ["t", /ŧ/g], ["b", /[ɓƀ]/g],
      ["f", /ƒ/g], ["i", /[ɨı]/g], ["j", /ȷ/g], ["k", /ƙ/g], ["y", /ƴ/g], ["z", /ƶ/g], ["ae", /æ/g], ["oe", /œ/g],
      ["th", /þ/g], ["\u064a", /[\u06cc\u0649]/g], ["\u0643", /\u06a9/g], ["\u0647", /\u06c1/g], ["\u0627", /\u0671/g],
      ..."ണ\u0d7aന\u0d7bര\u0d7cല\u0d7dള\u0d7eക\u0d7f".match(/../g).map(([letter, final]) => [`${letter}\u0d4d`, new RegExp(final, "g")]),
    ];
    const digit = (sign) => {
      let value = 0;
      while (value < 9 && /\p{Nd}/u.test(String.fromCodePoint(sign.codePointAt(0) - value - 1))) value += 1;
      return String(value);
    };
    let folded = String(text).replace(/\u00b4/g, "'").replace(/[\u2122\u2120]/g, " ").normalize("NFKD");
    folded = folded.replace(invisible, "").replace(accents, "").toLowerCase().normalize("NFKD").replace(accents, "");
    for (const [letter, spellings] of others) folded = folded.replace(spellings, letter);
    return folded.replace(/\p{Nd}/gu, digit).normalize("NFC");
  }
  function shown(value) {
    if (typeof value !== "number") return "–";
    const size = Math.abs(value);
    return value.toFixed(size >= 100 ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : 3);
  }
  function short(value) {
    return typeof value !== "number" ? "–" : value.toFixed(Math.abs(value) >= 100 ? 0 : Math.abs(value) >= 10 ? 1 : 2);
  }
  function percent(value) {
    return `${Math.round(100 * value)}\u00a0%`;
  }
  function letter(place) {
    return place < 26 ? String.fromCharCode(65 + place) : `A${place}`;
  }

  // One case. book: {entities, pictures, parts, methods, kinds}, as the page's JSON has them.
  function renderCase(one, book, open) {
    const title = el("h3", { id: `case-${one.id}`, text: one.phrase });
    const tags = [one.id, one.type, one.group].filter(Boolean).map((text) => el("span", { class: "tag", text }));
    const verdicts = book.methods.filter((name) => name in one.methods).map((name) => {
      const { right, rank } = one.methods[name];
      const verdict = right === null ? "no gold in the KB" : right ? "right" : rank ? `wrong, gold at ${rank}` : "wrong, gold not listed";
      const mark = right === null ? "·" : right ? "✓" : "✗";
      const state = right === null ? "" : right ? "right" : "wrong";
      return el("span", { class: `verdict ${state}`, title: verdict }, `${mark} ${name}${right === false && rank ? ` @${rank}` : ""}`);
    });
    const seen = el("div", { class: one.image.picture ? "seen" : "seen bare" }, one.image.picture ? picture(one, book) : null, text(one, book));
    const answers = el("div", { class: "answers" }, ...book.methods.filter((name) => name in one.methods).map((name) => answer(one, name, book, open)));
    return el("article", { class: "case", "aria-labelledby": `case-${one.id}` }, el("header", {}, title, ...tags, el("span", { class: "verdicts" }, ...verdicts)), seen, answers);
  }

  function text(one, book) {
    const [before, phrase, after] = one.text;
    const sentence = el("p", { class: "sentence" }, before, one.phrase_found ? el("mark", { text: phrase }) : null, after);
    const lost = one.phrase_found ? null : el("p", { class: "absent", text: `The phrase “${one.phrase}” was not found in the sentence.` });
    const without = one.image.picture || one.image.status === "none" ? null : el("p", { class: "absent", text: `Picture: ${one.image.status}.` });
    const none = one.image.status === "none" ? el("p", { class: "absent", text: "No picture." }) : null;
    return el("div", {}, sentence, lost, without, none, gold(one, book));
  }

  function gold(one, book) {
    if (one.gold === null) return el("p", { class: "absent", text: "Gold: NIL, none of the knowledge base’s entities." });
    if (!one.gold_known) return el("p", { class: "absent", text: `Gold: ${one.gold}, which is not in the knowledge base.` });
    const entity = book.entities[one.gold];
    return el("div", { class: "gold" }, thumb(entity, book),
      el("div", {}, el("p", {}, "Gold: ", el("b", { text: entity.name }), ` (${[one.gold, entity.type].filter(Boolean).join(", ")})`), el("p", { class: "text", text: entity.text })));
  }

  function thumb(entity, book) {
    const uri = book.pictures[entity.picture];
    if (!uri) return el("span", { class: "thumb none", text: "no picture" });
    return el("img", { class: "thumb", src: uri, alt: `Picture of ${entity.name}`, loading: "lazy", decoding: "async" });
  }

  function picture(one, book) {
    const { width, height } = one.image;
    const size = Math.max(width, height) / 20;
    const marks = [];
    const listed = [];
    const weights = attended(one, book);
    function mark(box, kind, name) {
      const [x1, y1, x2, y2] = box;
      const around = { x: x1, y: y1, width: Math.max(0, x2 - x1), height: Math.max(0, y2 - y1) };
      const wide = size * (0.5 + 0.65 * name.length);
      const left = kind === "face" ? Math.max(0, x2 - wide) : x1;
      marks.push(drawn("rect", { ...around, class: "under" }), drawn("rect", { ...around, class: `box ${kind}` }),
        drawn("rect", { x: left, y: y1, width: wide, height: size * 1.25, class: "plate" }),
        drawn("text", { x: left + wide / 2, y: y1 + size * 0.98, "font-size": size, "text-anchor": "middle", class: "word", text: name }));
    }
    // A recognised name below a face, within the picture.
    function called([x1, , x2, y2], name) {
      const most = Math.floor(width / (0.6 * size)) - 1;
      const label = name.length > most ? `${name.slice(0, most - 1)}…` : name;
      const wide = Math.min(width, size * (0.8 + 0.6 * label.length));
      const left = Math.min(Math.max(0, (x1 + x2 - wide) / 2), width - wide);
      const top = Math.min(y2, height - size * 1.3);
      marks.push(drawn("rect", { x: left, y: top, width: wide, height: size * 1.3, class: "plate" }),
        drawn("text", { x: left + wide / 2, y: top + size * 0.98, "font-size": size, "text-anchor": "middle", textLength: wide - size * 0.8, lengthAdjust: "spacingAndGlyphs", class: "word", text: label }));
    }
    one.objects.forEach((object, place) => {
      const name = String(place + 1);
      mark(object.box, "object", name);
      const weight = weights.objects[place];
      listed.push(el("li", { class: "of-object" }, el("b", { text: name }),
        el("span", { text: `${object.label || "object"}, ${percent(object.score)}${weight === undefined ? "" : `; attention ${percent(weight)}`}` })));
    });
    one.faces.forEach((face, place) => {
      const name = letter(place);
      mark(face.box, "face", name);
      if (face.names.length) called(face.box, face.names[0][0]);
      const names = face.names.map(([who, score]) => `${who} (${percent(score)})`).join(", ");
      const text = [`face, ${percent(face.score)}`, names && `recognised: ${names}`, face.attributes].filter(Boolean).join("; ");
      listed.push(el("li", { class: "of-face" }, el("b", { text: name }), el("span", { text })));
    });
    const label = `Picture beside “${one.phrase}”, with ${one.objects.length} objects and ${one.faces.length} faces marked`;
    const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label },
      drawn("image", { href: book.pictures[one.image.picture], width, height, preserveAspectRatio: "none" }), ...marks);
    return el("div", { class: "picture" }, svg, listed.length ? el("ul", { class: "detected" }, ...listed) : null);
  }

  // Weights of the objects by their number, of the first method that tells of them.
  function attended(one, book) {
    const objects = {};
    for (const name of book.methods) {
      const attention = (one.methods[name] || {}).attention;
      if (attention && attention.objects) {
        for (const [, weight, number] of attention.objects) if (number >= 0) objects[number] = weight;
        break;
      }
    }
    return { objects };
  }

  function answer(one, name, book, open) {
    const result = one.methods[name];
    const colour = book.methods.indexOf(name) % 8;
    const place = result.right === null ? "" : result.rank ? `gold at ${result.rank}` : "gold not listed";
    const entries = result.top.map((candidate, at) => entry(candidate, at + 1, one, book));
    const below = result.gold ? [el("p", { class: "below", text: "further down:" }), el("ol", {}, entry(result.gold, result.rank || "–", one, book))] : [];
    const why = reasons(result, one, book);
    return el("section", { class: `answer c${colour}`, "aria-label": `${name}: top ${result.top.length}` },
      el("h4", {}, name, el("span", { text: place })), el("ol", {}, ...entries), ...below,
      why.length ? el("details", { class: "why", open }, el("summary", { text: "What it tells" }), ...why) : null);
  }

  function entry(candidate, place, one, book) {
    const entity = book.entities[candidate.id];
    const right = candidate.id === one.gold;
    const under = [candidate.id, entity.type].filter(Boolean).join(", ");
    return el("li", { class: right ? "entry is-gold" : "entry", title: entity.text },
      thumb(entity, book),
      el("span", { class: "who" }, right ? el("span", { class: "tick", text: "✓ ", "aria-label": "gold: " }) : null, entity.name, el("small", { text: `${place}. ${under}` }),
        candidate.expert ? el("span", { class: "expert", text: `expert: ${candidate.expert}` }) : null),
      el("span", { class: "score", text: shown(candidate.score) }));
  }

  function reasons(result, one, book) {
    const all = result.top.map((candidate, at) => ({ ...candidate, place: at + 1 }));
    if (result.gold) all.push({ ...result.gold, place: result.rank || "–" });
    const parts = [];
    const columns = (key) => [...new Set(all.flatMap((candidate) => Object.keys(candidate[key] || {})))];
    const units = columns("units");
    const edges = columns("edges");
    const pairs = columns("pairs");
    if (units.length) parts.push(...grid("Scores of its units", all, units, UNITS, (candidate, name) => short((candidate.units || {})[name]), one, book));
    if (edges.length) {
      const change = (candidate, name) => ((candidate.edges || {})[name] || [null]).map(short);
      parts.push(...grid("Edges, from before (above) to after", all, edges, EDGES, change, one, book));
    } else if (pairs.length) parts.push(...grid("What it combines", all, pairs, {}, (candidate, name) => [(candidate.pairs || {})[name]].flat().map(short), one, book));
    for (const [role, steps] of Object.entries(result.attention || {})) {
      parts.push(el("p", { text: `Attention over ${ROLES[role] || role}` }));
      for (const [what, weight, number] of steps) {
        const called = role === "objects" && number >= 0 ? `${number + 1} ${what}` : role === "faces" && number >= 0 ? `${letter(number)} ${what}` : what;
        const bar = drawn("svg", { viewBox: "0 0 70 8", "aria-hidden": "true" }, drawn("rect", { class: "rail", width: 70, height: 8, rx: 4 }),
          drawn("rect", { class: "filled", width: 70 * Math.max(0, Math.min(1, weight)), height: 8, rx: 4 }));
        parts.push(el("div", { class: "weight" }, el("span", { text: called }), bar, el("span", { text: percent(weight) })));
      }
    }
    return parts;
  }

  // A table of what `keys` are for each candidate, who stand across by their places, as in the list above it.
  function grid(title, candidates, keys, names, cell, one, book) {
    const places = candidates.map((candidate) => {
      const place = candidate.place;
      const name = book.entities[candidate.id].name;
      return el("th", { scope: "col", class: "number", title: name, "aria-label": name, text: candidate.id === one.gold ? `✓${place}` : String(place) });
    });
    const rows = keys.map((key) => el("tr", {}, el("th", { scope: "row", text: names[key] || key.replaceAll("_", " ") }),
      ...candidates.map((candidate) => {
        const values = [cell(candidate, key)].flat();  // of many numbers the first two, and all where the pointer rests
        return el("td", { class: "number", title: values.length > 2 ? values.join(", ") : null }, ...values.slice(0, 2).map((text) => el("span", { text })));
      })));
    const head = el("tr", {}, el("td", {}), ...places);
    return [el("p", { text: title }), el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": title }, el("table", {}, el("thead", {}, head), el("tbody", {}, ...rows)))];
  }

  // Filters.
  function words(one, book) {
    const ids = new Set([one.gold, ...Object.values(one.methods).flatMap((result) => result.top.map((candidate) => candidate.id))]);
    const names = [...ids].filter((id) => id !== null).flatMap((id) => [id, book.entities[id].name]);
    return plain([one.id, one.phrase, ...one.text, ...names].join("\n"));
  }
  function fits(one, query, book) {
    if (query.part !== "" && !one.parts.includes(Number(query.part))) return false;
    const verdicts = Object.values(one.methods).map((result) => result.right).filter((right) => right !== null);
    if (query.dispute === "some" && !(verdicts.includes(true) && verdicts.includes(false))) return false;
    if (query.dispute === "all" && !(verdicts.length && !verdicts.includes(false))) return false;
    if (query.dispute === "none" && !(verdicts.length && !verdicts.includes(true))) return false;
    for (const [name, wanted] of query.outcomes) if (wanted !== "" && (one.methods[name] || {}).right !== (wanted === "right")) return false;
    if (!query.words) return true;
    one.words ??= words(one, book);
    return query.words.every((word) => one.words.includes(word));
  }

  function start() {
    const book = JSON.parse(document.getElementById("book").textContent);
    const get = (id) => document.getElementById(id);
    const list = get("list"), more = get("more"), count = get("count"), form = get("filters");
    book.parts.forEach((name, number) => get("part").append(el("option", { value: String(number), text: name })));
    const outcomes = book.methods.map((name) => {
      const select = el("select", { "data-method": name }, el("option", { value: "", text: "any" }), el("option", { value: "right", text: "right" }), el("option", { value: "wrong", text: "wrong" }));
      get("outcomes").append(el("label", {}, name, select));
      return [name, select];
    });
    const opened = el("input", { type: "checkbox", id: "open" });
    get("outcomes").append(el("label", { class: "open" }, opened, "open what methods tell"));
    let fitting = [], at = 0;

    function next() {
      const batch = document.createDocumentFragment();
      for (const one of fitting.slice(at, at + BATCH)) batch.append(renderCase(one, book, opened.checked));
      at = Math.min(fitting.length, at + BATCH);
      list.append(batch);
      more.hidden = at >= fitting.length;
    }
    function filter() {
      const words = plain(get("query").value).split(/\s+/).filter(Boolean);
      const query = { words: words.length ? words : null, part: get("part").value, dispute: get("dispute").value, outcomes: outcomes.map(([name, select]) => [name, select.value]) };
      fitting = book.cases.filter((one) => fits(one, query, book));
      at = 0;
      list.replaceChildren();
      count.textContent = fitting.length === 0 ? "No case fits." : `${fitting.length} of ${book.cases.length} cases`;
      next();
    }
    let waiting = 0;
    form.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(filter, 120); });
    form.addEventListener("reset", () => setTimeout(filter));
    form.addEventListener("submit", (event) => event.preventDefault());
    more.addEventListener("click", next);
    if ("IntersectionObserver" in window) new IntersectionObserver((seen) => { if (seen.some((one) => one.isIntersecting) && !more.hidden) next(); }, { rootMargin: "600px" }).observe(more);
    filter();
  }

  globalThis.renderCase = renderCase;
  if (document.getElementById("book")) start();
})();

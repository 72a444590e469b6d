"use strict";
// Everything from the page's data becomes text by textContent; nothing here builds markup.
(() => {
  const PAGE = 50;
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const make = (tag, attributes = {}, ...children) => {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name === "text") node.textContent = value;
      else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
    }
    node.append(...children);
    return node;
  };
  const later = (work) => {
    let timer = 0;
    return () => { clearTimeout(timer); timer = setTimeout(work, 120); };
  };
  const select = (label, values, all, chosen, change) => {
    const box = make("select", { onchange: change });
    if (all) box.append(make("option", { value: "", text: all }));
    values.forEach((value, i) => box.append(make("option", { value: String(i), text: value, selected: value === chosen })));
    return [box, make("label", { text: label }, box)];
  };
  const pager = (where, go) => {
    const back = make("button", { type: "button", text: "Previous", onclick: () => go(-1) });
    const forth = make("button", { type: "button", text: "Next", onclick: () => go(1) });
    where.append(back, forth);
    return (page, pages) => {
      where.hidden = pages < 2;
      back.disabled = page === 0;
      forth.disabled = page >= pages - 1;
    };
  };

  // --- leaderboard ---------------------------------------------------------------------------
  const NAMES = {
    data: "data", scenario: "scenario", condition: "condition", name: "method", metric: "metric",
    mean: "score", ci_low: "over seeds", sample_ci_low: "over samples", rank: "rank", rank_borda: "mean rank", p_vs_best: "p against best",
    regret_to_bayes: "below best possible", seeds: "trainings", missing_rate_realised: "missing rate",
    incomplete_rate_realised: "incomplete", inside_rate_realised: "gone inside", params_total: "parameters", train_s: "training, s",
    params_trainable: "trainable", flops_per_sample: "operations", infer_ms_std: "± ms",
    energy_j: "energy, J", infer_ms_per_sample: "inference, ms", peak_mib: "peak, MiB", effective_n: "samples", note: "note",
  };
  const short = (value) => {
    if (value === null) return "–";
    const size = Math.abs(value);
    if (Number.isInteger(value) && size < 1000 || size >= 1e15) return String(value);
    if (size >= 1000) return Math.round(value).toLocaleString("en");
    if (size >= 100) return value.toFixed(0);
    if (size >= 10) return value.toFixed(1);
    return size >= 0.01 ? value.toFixed(2) : value.toPrecision(2);
  };
  const board = () => {
    const table = document.getElementById("board");
    if (!table) return;
    const { n, columns, metric, lower } = read("board-data");
    const text = (name, row) => columns[name].values[columns[name].codes[row]];
    const number = (name, row) => (columns[name] ? columns[name][row] : null);
    const isText = (name) => !Array.isArray(columns[name]);
    const varies = (name) => columns[name].values.length > 1;
    // where little fits, what one looks for comes first
    const narrow = matchMedia("(max-width: 40rem)").matches;
    const places = ["data", "scenario", "condition", "metric"];
    const shown = ["name", ...(narrow ? ["mean", "ci_low", "sample_ci_low", "rank", ...places] : [...places, "mean", "ci_low", "sample_ci_low", "rank"]), "seeds",
      "rank_borda", "p_vs_best", "regret_to_bayes", "missing_rate_realised",
      "incomplete_rate_realised", "inside_rate_realised", "effective_n", "params_total", "params_trainable",
      "flops_per_sample", "train_s", "infer_ms_per_sample", "infer_ms_std", "peak_mib", "energy_j",
      "note"].filter((name) => columns[name]
        && (!["scenario", "data", "condition"].includes(name) || varies(name)));
    const controls = document.getElementById("board-controls");
    const status = document.getElementById("board-status");
    const words = make("input", { type: "search", placeholder: "any words", autocomplete: "off" });
    controls.append(make("label", { text: "filter" }, words));
    const choices = {};
    for (const [name, label] of [["data", "data"], ["scenario", "scenario"], ["condition", "condition"], ["metric", "metric"]]) {
      const [box, labelled] = select(label, columns[name].values, "all", name === "metric" ? metric : null, () => filter());
      choices[name] = box;
      if (varies(name)) controls.append(labelled);
    }
    controls.hidden = false;
    let rows = [], page = 0, by = null, up = true;
    const heads = {};
    const line = make("tr");
    for (const name of shown) {
      heads[name] = make("th", { scope: "col", class: isText(name) ? "text of-" + name : "" },
        make("button", { type: "button", text: NAMES[name], onclick: () => sort(name) }));
      line.append(heads[name]);
    }
    table.tHead.append(line);

    const haystack = (row) => ["name", "data", "scenario", "condition", "metric", "note"]
      .map((name) => (columns[name] ? text(name, row) : "")).join(" ").toLowerCase();
    function filter() {
      const parts = words.value.toLowerCase().split(/\s+/).filter(Boolean);
      const wanted = Object.entries(choices).filter(([, box]) => box.value !== "").map(([name, box]) => [columns[name].codes, Number(box.value)]);
      // a column with one chosen value says nothing
      for (const [name, box] of Object.entries(choices)) table.classList.toggle("one-" + name, box.value !== "");
      rows = [];
      for (let row = 0; row < n; row++) {
        if (!wanted.every(([codes, code]) => codes[row] === code)) continue;
        if (parts.length) {
          const hay = haystack(row);
          if (!parts.every((part) => hay.includes(part))) continue;
        }
        rows.push(row);
      }
      arrange();
    }
    function sort(name) {
      if (by === name) up = !up;
      else {
        by = name;
        // best first, where there is a best
        const one = choices.metric.value === "" ? null : columns.metric.values[Number(choices.metric.value)];
        up = name === "mean" ? one !== null && lower.includes(one) : true;
      }
      arrange();
    }
    function arrange() {
      for (const name of shown) heads[name].setAttribute("aria-sort", name === by ? (up ? "ascending" : "descending") : "none");
      if (by) {
        const sign = up ? 1 : -1;
        const column = columns[by];
        if (isText(by)) {
          const place = column.values.map((value, i) => [value, i]).sort((a, b) => a[0].localeCompare(b[0], "en", { numeric: true }));
          const order = [];
          place.forEach(([, i], p) => { order[i] = p; });
          rows.sort((a, b) => sign * (order[column.codes[a]] - order[column.codes[b]]) || a - b);
        } else {
          rows.sort((a, b) => {
            const [x, y] = [column[a], column[b]];
            if (x === null || y === null) return (x === null) - (y === null) || a - b;
            return sign * (x - y) || a - b;
          });
        }
      } else rows.sort((a, b) => a - b);
      page = 0;
      draw();
    }
    const mark = pager(document.getElementById("board-pager"), (step) => { page += step; draw(); });
    function draw() {
      const pages = Math.ceil(rows.length / PAGE);
      const part = rows.slice(page * PAGE, (page + 1) * PAGE);
      // a scale makes sense for one metric only
      let low = Infinity, high = -Infinity;
      const single = choices.metric.value !== "" || columns.metric.values.length === 1;
      if (single) for (const row of rows) {
        const value = columns.mean ? columns.mean[row] : null;
        if (value !== null) { low = Math.min(low, value); high = Math.max(high, value); }
      }
      const place = (value) => 100 * Math.min(1, Math.max(0, (value - low) / (high - low)));
      table.tBodies[0].replaceChildren(...part.map((row) => make("tr", { class: number("rank", row) === 1 ? "first" : "" },
        ...shown.map((name) => {
          if (name === "name") {
            const head = make("th", { scope: "row", text: text(name, row), title: text(name, row) });
            // its place lies beyond the edge there
            const where = places.filter((one) => narrow && shown.includes(one) && varies(one) && choices[one].value === "");
            if (where.length) head.append(make("small", { text: where.map((one) => text(one, row)).join(" · ") }));
            return head;
          }
          if (name === "seeds") {
            const [done, planned] = text(name, row).split("/");
            return make("td", { class: done === planned ? "" : "lost", text: done === planned ? done : done + "/" + planned });
          }
          if (isText(name)) return make("td", { class: name === "note" ? "text lost" : "text of-" + name, text: text(name, row) });
          const value = columns[name][row];
          if (name === "ci_low" || name === "sample_ci_low") {
            const end = number(name.replace("low", "high"), row);
            return make("td", { text: value === null || end === null ? "–" : value.toFixed(3) + "\u00a0to " + end.toFixed(3) });
          }
          if (name !== "mean") return make("td", { text: short(value) });
          const spread = number("std_seeds", row);
          const cell = make("td", { class: "score", text: value === null ? "–" : value.toFixed(3) + (spread === null ? "" : " ±\u00a0" + spread.toFixed(3)) });
          if (value !== null && high > low) {
            const [a, b] = [number("ci_low", row), number("ci_high", row)];
            const bar = make("span", { class: "bar", "aria-hidden": "true", title: a === null ? "" : "95 % interval " + a.toFixed(3) + " to " + b.toFixed(3) });
            if (a !== null) {
              const range = make("i");
              range.style.left = place(a) + "%";
              range.style.width = place(b) - place(a) + "%";
              bar.append(range);
            }
            const dot = make("b");
            dot.style.left = place(value) + "%";
            bar.append(dot);
            cell.append(bar);
          }
          return cell;
        }))));
      status.textContent = rows.length === 0 ? "no row fits the filter"
        : "rows " + (page * PAGE + 1) + " to " + (page * PAGE + part.length) + " of " + rows.length;
      mark(page, pages);
    }
    words.addEventListener("input", later(filter));
    filter();
  };

  // --- runs ----------------------------------------------------------------------------------
  const SVG = "http://www.w3.org/2000/svg";
  const spark = (name, xs, ys) => {
    const draw = (tag, attributes, text) => {
      const node = document.createElementNS(SVG, tag);
      for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
      if (text !== undefined) node.textContent = text;
      return node;
    };
    const [x0, x1, y0, y1] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
    const points = xs.map((x, i) => [
      6 + 208 * (x1 > x0 ? (x - x0) / (x1 - x0) : 0.5),
      74 - 50 * (y1 > y0 ? (ys[i] - y0) / (y1 - y0) : 0.5),
    ]);
    const label = name + ": from " + ys[0] + " to " + ys[ys.length - 1] + " over epochs " + x0 + " to " + x1;
    const svg = draw("svg", { viewBox: "0 0 220 90", role: "img", "aria-label": label });
    const small = { "font-size": 10, fill: "currentColor" };
    svg.append(
      draw("text", { x: 6, y: 12, ...small, "font-weight": 600 }, name),
      draw("text", { x: 214, y: 12, ...small, "text-anchor": "end" }, short(y0) + " to " + short(y1)),
      draw("polyline", { points: points.map((p) => p.map((v) => v.toFixed(1)).join(",")).join(" "), fill: "none", stroke: "var(--m0)", "stroke-width": 1.6 }),
      draw("text", { x: 6, y: 88, ...small }, "epoch " + x0),
      draw("text", { x: 214, y: 88, ...small, "text-anchor": "end" }, String(x1)),
    );
    return svg;
  };
  const runs = () => {
    const { states, keys, pool, runs: all } = read("runs-data");
    const list = document.getElementById("runs-list");
    const status = document.getElementById("runs-status");
    const controls = document.getElementById("runs-controls");
    const words = make("input", { type: "search", placeholder: "any words", autocomplete: "off" });
    const [box, labelled] = select("state", states, "all", null, () => filter());
    controls.append(make("label", { text: "filter" }, words), labelled);
    let rows = [], page = 0;
    const mark = pager(document.getElementById("runs-pager"), (step) => { page += step; draw(); });
    const fill = (node, [, , why, key, spec, env, curve]) => {
      if (node.dataset.filled) return;
      node.dataset.filled = "1";
      node.append(make("p", { class: "muted", text: "key " + key + (why ? " · " + why : "") }));
      if (curve) node.append(make("div", { class: "sparks" }, ...Object.entries(curve).map(([name, [xs, ys]]) => spark(name, xs, ys))));
      const resolved = Object.fromEntries(keys.map((name, i) => [name, pool[spec[i]]]));
      const both = make("div", { class: "both" });
      const show = (title, value) => both.append(make("div", {}, make("h4", { text: title }), make("pre", { tabindex: "0", text: JSON.stringify(value, null, 1) })));
      show("spec.json", resolved);
      if (env !== null) show("env.json", pool[env]);
      node.append(both);
    };
    function filter() {
      const parts = words.value.toLowerCase().split(/\s+/).filter(Boolean);
      rows = all.filter((run) => (box.value === "" || run[1] === Number(box.value))
        && parts.every((part) => (run[0] + " " + run[2]).toLowerCase().includes(part)));
      page = 0;
      draw();
    }
    function draw() {
      const part = rows.slice(page * PAGE, (page + 1) * PAGE);
      list.replaceChildren(...part.map((run) => {
        const node = make("details", { class: "run" }, make("summary", {},
          make("span", { class: "chip " + states[run[1]], text: states[run[1]] }), " " + run[0]));
        node.addEventListener("toggle", () => { if (node.open) fill(node, run); });
        return node;
      }));
      status.textContent = rows.length === 0 ? "no run fits the filter"
        : "runs " + (page * PAGE + 1) + " to " + (page * PAGE + part.length) + " of " + rows.length;
      mark(page, Math.ceil(rows.length / PAGE));
    }
    words.addEventListener("input", later(filter));
    filter();
  };
  // --- tables that are wider than the window --------------------------------------------------
  const hint = (box) => {
    const mark = () => box.toggleAttribute("data-more", box.scrollLeft + box.clientWidth < box.scrollWidth - 1);
    box.addEventListener("scroll", mark, { passive: true });
    const watch = new ResizeObserver(mark);
    watch.observe(box);
    for (const inner of box.children) watch.observe(inner);
  };
  document.querySelectorAll(".scroll").forEach(hint);

  // --- on paper nothing can be opened ---------------------------------------------------------
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("#data details:not([open])")];
    for (const each of opened) each.open = true;
  });
  addEventListener("afterprint", () => { for (const each of opened) each.open = false; });

  // --- a sweep that runs -----------------------------------------------------------------------
  const follow = () => {
    const busy = () => document.hidden || document.querySelector("details.run[open]")
      || ["INPUT", "SELECT"].includes(document.activeElement.tagName)
      || [...document.querySelectorAll("input")].some((input) => input.value !== "")
      || String(getSelection()) !== "";
    setInterval(() => { if (!busy()) location.reload(); }, 5000);
  };
  if ("watched" in document.body.dataset) follow();
  board();
  const details = document.getElementById("runs-details");
  details.addEventListener("toggle", () => { if (details.open) runs(); }, { once: true });
})();

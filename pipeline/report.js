"use strict";
// Everything on the page comes from the JSON blocks and is shown as text, never as markup.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const NAMESPACE = document.getElementById("svg").namespaceURI;
  const COLOURS = 6;
  const main = document.getElementById("main");
  const contents = document.getElementById("contents");

  const fill = (element, attributes, children) => {
    for (const [key, value] of Object.entries(attributes)) {
      if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
      else if (value === true) element.setAttribute(key, "");
      else if (value !== false && value != null) element.setAttribute(key, value);
    }
    element.append(...children.flat(9).filter((child) => child != null && child !== false));
    return element;
  };
  const h = (name, attributes = {}, ...children) =>
    fill(document.createElement(name), attributes, children);
  const s = (name, attributes = {}, ...children) =>
    fill(document.createElementNS(NAMESPACE, name), attributes, children);
  const name = (text) => h("bdi", {}, text);
  const number = (value, digits = 3) => (value == null ? "-" : value.toFixed(digits));
  const colour = (place) => `m${place % COLOURS}${place >= COLOURS ? " dash" : ""}`;
  const place = (method) => data.methods.indexOf(method);
  const swatch = (at) => h("span", { class: `swatch ${colour(at)}`, "aria-hidden": "true" });

  const section = (id, title, ...children) => {
    contents.append(h("a", { href: `#${id}` }, title));
    main.append(h("section", { "aria-labelledby": id }, h("h2", { id }, title), ...children));
  };

  // ---- tables -------------------------------------------------------------------------------

  // columns: {title, less, text, value(row), cell(row)}; the first one names the row
  const table = (caption, columns, rows, { tall = false, bars = false } = {}) => {
    const body = h("tbody");
    const draw = (sorted) =>
      body.replaceChildren(
        ...sorted.map((row) =>
          h("tr", {}, columns.map((column, i) =>
            i ? h("td", {}, column.cell(row)) : h("th", { scope: "row", title: column.value(row) }, column.cell(row)))),
        ),
      );
    const heads = columns.map((column) => {
      const sort = () => {
        const now = head.getAttribute("aria-sort");
        const first = column.text || column.less ? "ascending" : "descending";
        const other = first === "ascending" ? "descending" : "ascending";
        const way = now === first ? other : first;
        for (const each of heads) each.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", way);
        const sign = way === "ascending" ? 1 : -1;
        draw([...rows].sort((a, b) => {
          const [x, y] = [column.value(a), column.value(b)];
          if (x == null || y == null) return (x == null) - (y == null); // nothing comes last
          return sign * (column.text ? x.localeCompare(y, "en", { numeric: true }) : x - y);
        }));
      };
      const hint = column.text ? null : column.less ? "less is better" : "more is better";
      const head = h("th", { scope: "col", title: column.title ? hint : null },
        h("button", { type: "button", onclick: sort }, column.title));
      return head;
    });
    draw(rows);
    return h("div", { class: `scroll${tall ? " tall" : ""}${bars ? " bars" : ""}`, tabindex: "0", role: "region", "aria-label": caption },
      h("table", {}, h("thead", {}, h("tr", {}, heads)), body));
  };

  const bestOf = (values, less) => {
    const known = values.filter((value) => value != null).map((value) => Number(number(value)));
    if (values.length < 2 || !known.length) return null;
    return number(less ? Math.min(...known) : Math.max(...known));
  };

  const metricColumn = (key, rows) => {
    const { heading, less } = data.metrics[key];
    const best = bestOf(rows.map((row) => row.values[key]), less);
    return {
      title: heading, less, value: (row) => row.values[key],
      cell: (row) => {
        const text = number(row.values[key]);
        return h("span", { class: best !== null && text === best ? "best" : null, title: row.values[key] }, text);
      },
    };
  };

  const gauge = (value, largest, method, shown) => {
    const bar = h("i", { class: colour(method) });
    bar.style.setProperty("--w", `${Math.max(0, Math.min(1, value / largest || 0)) * 100}%`);
    return h("span", { class: "cell" }, h("span", { class: "gauge", "aria-hidden": "true" }, value == null ? null : bar), shown);
  };
  const largestOf = (values) => {
    const known = values.filter((value) => value != null);
    // most numbers are shares of 1; errors are small, and T has no upper end
    const most = Math.max(0, ...known);
    return most > 1 ? most : most > 0.25 ? 1 : most || 1;
  };

  const facts = (rows) => h("dl", {}, rows.flatMap(([what, value]) => [h("dt", {}, what), h("dd", {}, value)]));

  const protocolFacts = (dataset) => {
    const { protocol } = dataset;
    const rows = [
      ["protocol", `${protocol.name}: ${protocol.used_by}`],
      ["frames that count", { trim: "without the first and last mask of a video", all: "all with a mask", "non-empty": "those whose mask is not empty" }[protocol.frames]],
      ["average", { frame: "over all frames", video: "per video, then over videos", class: "per video, then over the videos of a class, then over classes" }[protocol.average]],
      ["saliency", protocol.saliency], ["J and boundary F", protocol.threshold], ["curves", protocol.curves],
      ["maps of another size", protocol.sizes === "refused" ? "refused" : "resized, bilinear"],
    ];
    for (const method of dataset.methods) {
      const said = [];
      if (method.skipped.length) said.push(`${method.skipped.length} videos without foreground left out (${method.skipped.slice(0, 5).join(", ")})`);
      if (method.empty_masks) said.push(`${method.empty_masks} empty masks`);
      if (method.resized_maps) said.push(`${method.resized_maps} maps resized`);
      if (said.length) rows.push([method.name, said.join(", ")]);
    }
    return h("details", {}, h("summary", {}, "How these numbers are made"), facts(rows));
  };

  const totals = (dataset) => {
    const rows = dataset.methods.map((method) => ({ method: method.name, values: method.total }));
    const every = Object.keys(data.metrics).filter((key) => rows.some((row) => row.values[key] != null));
    const holder = h("div");
    const draw = (keys) => holder.replaceChildren(table(`${dataset.name}: scores of every method`, [
      { title: "method", text: true, value: (row) => row.method, cell: (row) => [swatch(place(row.method)), name(row.method)] },
      ...keys.map((key) => metricColumn(key, rows)),
    ], rows));
    const all = h("input", { type: "checkbox", onchange: () => draw(all.checked ? every : dataset.headline) });
    draw(dataset.headline);
    const { videos, frames } = rows[0].values;
    const count = dataset.still ? `${frames} pictures` : `${videos} videos, ${frames} frames`;
    return [
      h("h3", {}, name(dataset.name)),
      h("p", { class: "note" }, `protocol ${dataset.protocol.name}, ${count}`),
      holder,
      every.length > dataset.headline.length && h("div", { class: "tools" }, h("label", {}, all, "all numbers, not only the protocol's own")),
      dataset.methods.some((method) => Object.keys(method.classes).length) && classes(dataset),
      protocolFacts(dataset),
    ];
  };

  const classes = (dataset) => h("details", {}, h("summary", {}, "By class"),
    byRow(dataset, "class", (method) => method.classes, dataset.headline[0]));

  // one metric, a column a method
  const byRow = (dataset, what, rowsOf, key) => {
    const { heading, less } = data.metrics[key];
    const titles = [...new Set(dataset.methods.flatMap((method) => Object.keys(rowsOf(method))))];
    const valueOf = (method, title) => rowsOf(method)[title]?.[key];
    const most = largestOf(titles.flatMap((title) => dataset.methods.map((method) => valueOf(method, title))));
    const rows = titles.map((title) => ({ title, best: bestOf(dataset.methods.map((method) => valueOf(method, title)), less) }));
    return table(`${dataset.name}: ${heading} of every ${what}`, [
      { title: what, text: true, value: (row) => row.title, cell: (row) => name(row.title) },
      ...dataset.methods.map((method) => ({
        title: method.name, less, value: (row) => valueOf(method, row.title),
        cell: (row) => {
          const value = valueOf(method, row.title);
          const text = number(value);
          const shown = h("span", { class: row.best !== null && text === row.best ? "best" : null, title: value }, text);
          return gauge(value, most, place(method.name), shown);
        },
      })),
    ], rows, { tall: true, bars: true });
  };

  const allOfOne = (dataset) => {
    const [method] = dataset.methods;
    const rows = Object.entries(method.videos).filter(([, values]) => values).map(([title, values]) => ({ title, values }));
    return table(`${dataset.name}: scores of every video`, [
      { title: "video", text: true, value: (row) => row.title, cell: (row) => name(row.title) },
      ...dataset.headline.map((key) => {
        const { heading, less } = data.metrics[key];
        const values = rows.map((row) => row.values[key]);
        const most = largestOf(values);
        const signed = values.some((value) => value < 0); // decay: no bar has its length
        return {
          title: heading, less, value: (row) => row.values[key],
          cell: (row) => {
            const shown = h("span", { title: row.values[key] }, number(row.values[key]));
            return signed ? shown : gauge(row.values[key], most, 0, shown);
          },
        };
      }),
      { title: "frames", value: (row) => row.values.frames, cell: (row) => String(row.values.frames) },
    ], rows, { tall: true });
  };

  const videos = (dataset) => {
    const holder = h("div");
    const parts = [h("h3", {}, name(dataset.name))];
    if (dataset.methods.length === 1) holder.append(allOfOne(dataset));
    else {
      const keys = Object.keys(data.metrics).filter((key) => dataset.methods.some((method) => method.total[key] != null));
      const select = h("select", { "aria-label": "Score", onchange: () => draw(select.value) },
        keys.map((key) => h("option", { value: key, selected: key === dataset.headline[0] }, data.metrics[key].heading)));
      const draw = (key) => holder.replaceChildren(byRow(dataset, "video", (method) => method.videos, key));
      draw(dataset.headline[0]);
      parts.push(h("div", { class: "tools" }, h("label", {}, "Score", select)));
    }
    if (dataset.left_out) parts.push(h("p", { class: "note" }, `The best and the worst ones; ${dataset.left_out} between them are not listed.`));
    return [...parts, holder];
  };

  // ---- charts -------------------------------------------------------------------------------

  const ticks = (low, high) => {
    const rough = (high - low) / 5 || 1;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough * 0.999);
    const found = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i += 1) found.push(i * step);
    return found;
  };
  const tick = (value) => (value !== 0 && Math.abs(value) < 0.001 ? value.toExponential(0) : String(Number(value.toPrecision(4))));

  // lines: {name, colour, points: [[x, y], ...]}
  const chart = (title, x, y, lines) => {
    const [width, height, left, right, top, bottom] = [420, 270, 46, 14, 8, 38];
    const across = (v) => left + ((v - x.low) / (x.high - x.low || 1)) * (width - left - right);
    const down = (v) => height - bottom - ((v - y.low) / (y.high - y.low || 1)) * (height - top - bottom);
    const round = (v) => Math.round(v * 100) / 100;
    const path = (points) => points.map(([a, b], i) => `${i ? "L" : "M"}${round(across(a))} ${round(down(b))}`).join("");
    const label = `${title}: ${y.label} over ${x.label}, ${lines.map((line) => line.name).join(", ")}`;
    return h("figure", { class: "chart" }, h("figcaption", {}, title),
      s("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label },
        ticks(x.low, x.high).map((v) => [
          s("line", { class: "grid", x1: across(v), x2: across(v), y1: top, y2: height - bottom }),
          s("text", { x: across(v), y: height - bottom + 15, "text-anchor": "middle" }, tick(v))]),
        ticks(y.low, y.high).map((v) => [
          s("line", { class: "grid", x1: left, x2: width - right, y1: down(v), y2: down(v) }),
          s("text", { x: left - 6, y: down(v) + 4, "text-anchor": "end" }, tick(v))]),
        s("text", { x: (left + width - right) / 2, y: height - 4, "text-anchor": "middle" }, x.label),
        lines.map((line) => s("path", { class: `curve ${line.colour}`, d: path(line.points) }, s("title", {}, line.name))),
        lines.map((line) => line.dots && line.points.map(([a, b]) =>
          s("circle", { class: `dot ${line.colour}`, cx: round(across(a)), cy: round(down(b)), r: 3 },
            s("title", {}, `${line.name} ${number(b)}`))))));
  };

  const share = (label) => ({ low: 0, high: 1, label });
  const curves = (dataset) => {
    const line = (method, points) => ({ name: method.name, colour: colour(place(method.name)), points });
    const pr = dataset.methods.map((m) => line(m, m.curves.recall.map((r, i) => [r, m.curves.precision[i]])));
    const f = dataset.methods.map((m) => line(m, m.curves.f_curve.map((v, i) => [i, v])));
    return [
      h("h3", {}, name(dataset.name)),
      h("div", { class: "charts" },
        chart("Precision and recall", share("recall"), share("precision"), pr),
        chart("F-measure", { low: 0, high: 255, label: "threshold" }, share("F"), f)),
      h("ul", { class: "key" }, dataset.methods.map((m) =>
        h("li", {}, swatch(place(m.name)), name(m.name), ` (max F ${number(Math.max(...m.curves.f_curve))})`))),
    ];
  };

  const training = (run) => run.stages.map((stage) => {
    const x = { low: 0, high: stage.steps, label: "step" };
    const points = (values) => values.map((v, i) => [Math.min(stage.steps, (i + 0.5) * stage.every), v]);
    const one = (values, floor) => ({ low: floor, high: Math.max(...values) * 1.05 || 1 });
    const loss = [{ name: "loss", colour: "m0", points: points(stage.loss) }];
    const lr = [{ name: "learning rate", colour: "m1", points: points(stage.lr) }];
    const low = Math.min(0, ...stage.loss);
    const each = stage.every > 1 ? `, each point the mean of ${stage.every}` : "";
    return [
      h("p", { class: "note" }, `stage ${stage.name}: ${stage.steps} steps${each}`),
      h("div", { class: "charts" },
        chart("Loss", x, { ...one(stage.loss, low), label: "loss" }, loss),
        chart("Learning rate", x, { ...one(stage.lr, 0), label: "rate" }, lr),
        stage.proxies && chart("Proxies (validation while training)", x, share("proxy"), proxies(stage.proxies))),
      stage.proxies && h("ul", { class: "key" }, proxies(stage.proxies).map((line) =>
        h("li", {}, h("span", { class: `swatch ${line.colour}`, "aria-hidden": "true" }), line.name))),
      stage.proxies && h("p", { class: "note" }, "Proxies choose the best weights: all annotated frames of the validation videos count, whatever the protocol. They are no scores to publish, and not those of the tables."),
    ];
  });
  const PROXIES = { j: "J", f_boundary: "F", s: "S", f_adaptive: "adp F", mae: "MAE" };
  const proxies = (found) => Object.keys(PROXIES).filter((key) => found[key]).map((key, i) => ({
    name: `proxy ${PROXIES[key]}`, colour: `m${i}`, dots: found.step.length <= 60,
    points: found.step.map((step, at) => [step, found[key][at]]),
  }));

  // ---- strips of frames ---------------------------------------------------------------------

  const strip = (about, index) => {
    const frames = h("div", { class: "frames" });
    const titles = [...about.layers, ...about.methods.flatMap(() => ["map", "errors"])];
    const images = titles.map(() => h("img", { alt: "", decoding: "async" }));
    const captions = titles.map(() => h("figcaption"));
    const figures = images.map((image, i) => h("figure", {}, image, captions[i]));
    frames.append(h("div", { class: `base of${about.layers.length}` }, figures.slice(0, about.layers.length)));
    for (let i = about.layers.length; i < figures.length; i += 2) frames.append(h("div", { class: "pair" }, figures.slice(i, i + 2)));
    let pictures = null; // decoded when the strip comes near the screen
    const count = about.shown.length;
    const output = h("output", {});
    const slider = h("input", { type: "range", min: 0, max: count - 1, step: 1, value: about.opens, "aria-label": `frame of ${about.video}` });
    // the line above the slider has its places: frames between two shown ones lie between them
    const across = (judged) => {
      const next = Math.max(1, about.shown.findIndex((place) => place >= judged));
      const [low, high] = [about.shown[next - 1], about.shown[next] ?? 1];
      return (100 * (next - 1 + (judged - low) / (high - low))) / Math.max(1, count - 1);
    };
    const here = s("line", { class: "here", y1: 0, y2: 40 });
    const lines = s("svg", { class: "line", viewBox: "0 0 100 40", preserveAspectRatio: "none", "aria-hidden": "true" },
      s("rect", { class: "frame", x: 0, y: 0, width: 100, height: 40 }),
      about.methods.map((method) => s("path", {
        class: `curve ${colour(place(method.name))}`,
        d: method.j.map((j, i) => `${i ? "L" : "M"}${across(i).toFixed(2)} ${(40 * (1 - j)).toFixed(2)}`).join(""),
      })), here);

    const show = () => {
      const at = Number(slider.value);
      const judged = about.shown[at];
      const title = about.names[judged];
      const scored = about.methods.map((method) => `${method.name} ${number(method.j[judged])}`).join(", ");
      slider.setAttribute("aria-valuetext", `frame ${title}, J ${scored}`);
      output.textContent = `frame ${title} (${at + 1} of ${count} shown, ${about.frames} in all); J: ${scored}`;
      for (const end of ["x1", "x2"]) here.setAttribute(end, across(judged));
      titles.forEach((layer, i) => {
        const method = about.methods[(i - about.layers.length) >> 1];
        const parts = i < about.layers.length ? [layer]
          : [name(method.name), layer === "errors" ? `: errors, J ${number(method.j[judged])}` : ": map"];
        captions[i].replaceChildren(...parts);
        if (!pictures) return;
        images[i].alt = `${captions[i].textContent}, ${about.video} ${title}`;
        if (pictures[at][i]) images[i].src = `data:image/webp;base64,${pictures[at][i]}`;
        else images[i].removeAttribute("src");
      });
    };
    const load = () => {
      pictures = JSON.parse(document.getElementById(`strip-${index}`).textContent);
      images[0].addEventListener("load", () => {
        frames.style.setProperty("--shape", `${images[0].naturalWidth} / ${images[0].naturalHeight}`);
      }, { once: true });
      show();
    };
    const move = (by) => {
      slider.value = Number(slider.value) + by;
      show();
    };
    slider.addEventListener("input", show);
    show();
    const made = h("article", { class: "strip", "aria-label": `${about.video}, ${about.reasons.join(" and ")}` },
      h("h3", {}, name(about.video), about.reasons.map((reason) => h("span", { class: "tag" }, reason))),
      h("ul", { class: "key" }, h("li", {}, name(about.dataset)), about.methods.map((method) =>
        h("li", {}, swatch(place(method.name)), name(method.name), ` ${about.heading} ${number(method.value)}`))),
      frames,
      count > 1 && h("div", { class: "slider" },
        h("span", { class: "label" }, "J"), lines,
        h("button", { type: "button", "aria-label": "previous frame", onclick: () => move(-1) }, "\u2039"),
        slider,
        h("button", { type: "button", "aria-label": "next frame", onclick: () => move(1) }, "\u203a"),
        output));
    near(made, load);
    return made;
  };

  const waiting = new Map();
  const observer = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      observer.unobserve(target);
      waiting.get(target)();
    }
  }, { rootMargin: "400px" });
  const near = (element, then) => {
    waiting.set(element, then);
    observer.observe(element);
  };

  // ---- theme --------------------------------------------------------------------------------

  const THEMES = ["system", "light", "dark"];
  const button = document.getElementById("theme");
  const setTheme = (theme) => {
    if (theme === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    button.textContent = `Theme: ${theme}`;
    button.dataset.now = theme;
    try {
      localStorage.setItem("vsodpipe-theme", theme);
    } catch { /* a page from disk may have no storage: the choice lasts as long as the page */ }
  };
  let start = null;
  try {
    start = localStorage.getItem("vsodpipe-theme");
  } catch { /* as above */ }
  setTheme(THEMES.includes(start) ? start : "system");
  button.hidden = false;
  button.addEventListener("click", () => setTheme(THEMES[(THEMES.indexOf(button.dataset.now) + 1) % THEMES.length]));

  // ---- the page -----------------------------------------------------------------------------

  document.getElementById("title").replaceChildren(name(data.title));
  if (data.datasets.length) {
    section("scores", "Scores", data.datasets.map(totals));
    const moving = data.datasets.filter((dataset) => !dataset.still);
    if (moving.length) section("videos", "Videos", moving.map(videos));
    if (data.comparison.length) {
      section("comparison", "Comparison",
        h("p", { class: "note" }, "The first method against the others, video by video. p: share of sign patterns of the differences whose mean is as large (paired permutation test)."),
        data.comparison.map((pair) => h("details", { open: data.comparison.length === 1 },
          h("summary", {}, name(pair.dataset), ": ", name(pair.first), " against ", name(pair.other)),
          table(`${pair.dataset}: ${pair.first} against ${pair.other}`, [
            { title: "metric", text: true, value: (row) => row.heading, cell: (row) => row.heading },
            ...["first", "other", "difference"].map((key) => ({ title: key, value: (row) => row[key], cell: (row) => h("span", { title: row[key] }, number(row[key])) })),
            ...["better", "worse"].map((key) => ({ title: key, value: (row) => row[key], cell: (row) => String(row[key]) })),
            { title: "p", less: true, value: (row) => row.p, cell: (row) => h("span", { title: row.p }, number(row.p, 4)) },
          ], pair.rows))));
    }
    section("curves", "Curves", data.datasets.map(curves));
  }
  if (data.strips.length) {
    section("frames", "Frames",
      h("p", { class: "note" }, "Best and worst by the first score of the protocol, over all methods; most different where the methods are furthest apart. Move the slider with the arrow keys."),
      h("ul", { class: "key" },
        h("li", {}, h("span", { class: "swatch over" }), "false foreground"),
        h("li", {}, h("span", { class: "swatch missed" }), "missed foreground")),
      data.notes.map((note) => h("p", { class: "note" }, note)),
      data.strips.map(strip));
  }
  if (data.runs.length) {
    section("training", "Training", data.runs.map((run) => [
      h("h3", {}, name(run.name)),
      training(run),
      run.recipe && h("details", {}, h("summary", {}, "Recipe"), h("pre", { tabindex: "0" }, run.recipe)),
      h("details", {}, h("summary", {}, "Record of the run"), facts(Object.entries(run.record))),
    ]));
  }
  section("reproduce", "Reproduce",
    h("p", { class: "note" }, `Made by vsodpipe ${data.version}. The commands, in the folder where the page was made:`),
    data.commands.map(({ what, command }) => [h("p", { class: "note" }, what), h("pre", { tabindex: "0" }, command)]),
    h("div", { class: "scroll left", tabindex: "0", role: "region", "aria-label": "Fingerprints" },
      h("table", {}, h("thead", {}, h("tr", {}, ["fingerprint of", "which", "value"].map((title) => h("th", { scope: "col" }, title)))),
        h("tbody", {}, data.fingerprints.map(([what, which, value]) =>
          h("tr", {}, h("td", {}, what), h("td", {}, name(which)), h("td", { class: "mono" }, value)))))));
})();

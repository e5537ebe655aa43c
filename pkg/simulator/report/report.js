"use strict";
// Values under the pointer and the arrow keys, and the GPU map. Texts from the data only ever become textContent.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  // number and duration write as the tables do.
  const number = (v, decimals) =>
    v.toLocaleString("en-US", { minimumFractionDigits: decimals, maximumFractionDigits: decimals });
  const duration = (s) => {
    for (const [seconds, name] of [[86400, "d"], [3600, "h"], [60, "min"]]) {
      if (s >= seconds) return number(s / seconds, 1) + " " + name;
    }
    return number(s, 1) + " s";
  };
  const unit = (text, of) => (of ? text + "\u00a0" + of : text);

  // show puts the tip of a .live element beside a point of it, within it.
  const show = (live, text, x, y) => {
    const tip = live.querySelector(".tip");
    tip.textContent = text;
    tip.hidden = false;
    const room = live.clientWidth - tip.offsetWidth;
    const left = x + 14 > room ? x - 14 - tip.offsetWidth : x + 14;
    tip.style.left = Math.max(0, Math.min(room, left)) + "px";
    tip.style.top = Math.max(0, y - tip.offsetHeight / 2) + "px";
  };
  const hide = (live) => { live.querySelector(".tip").hidden = true; };
  const at = (live, event) => {
    const box = live.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };

  // last is the index of the last of the sorted values that is at most x, or 0.
  const last = (values, x) => {
    let low = 0, high = values.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (values[middle] <= x) low = middle + 1; else high = middle;
    }
    return Math.max(0, low - 1);
  };

  for (const svg of document.querySelectorAll("svg[data-chart]")) {
    const chart = data.charts[svg.dataset.chart];
    const live = svg.parentElement, cursor = svg.querySelector(".cursor");
    const [left, right] = chart.plot, [low, high] = chart.x;
    let x = high;
    const point = (y) => {
      const where = left + (x - low) / (high - low) * (right - left);
      cursor.setAttribute("transform", `translate(${where} 0)`);
      cursor.setAttribute("visibility", "visible");
      const rows = [chart.xUnit === "s" ? duration(x) : unit(number(x, 1), chart.xUnit) + " arrived"];
      for (const line of chart.lines) {
        if (line.x.length === 0 || x < line.x[0]) continue;
        const i = last(line.x, x);
        let row = line.run + ": " + unit(number(line.y[i], chart.decimals), chart.unit);
        if (line.low) row += ` (${number(line.low[i], chart.decimals)}–${number(line.high[i], chart.decimals)})`;
        rows.push(row);
      }
      show(live, rows.join("\n"), where / svg.viewBox.baseVal.width * live.clientWidth, y);
    };
    const leave = () => { hide(live); cursor.setAttribute("visibility", "hidden"); };
    svg.addEventListener("pointermove", (event) => {
      const [px, py] = at(live, event);
      const part = (px / live.clientWidth * svg.viewBox.baseVal.width - left) / (right - left);
      x = low + Math.max(0, Math.min(1, part)) * (high - low);
      if (chart.xUnit === "%") x = Math.round(x * 2) / 2;
      point(py);
    });
    svg.addEventListener("pointerleave", leave);
    svg.addEventListener("blur", leave);
    svg.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (event.key === "Escape") leave();
      if (!step) return;
      event.preventDefault();
      x = Math.max(low, Math.min(high, x + step * (high - low) / 100));
      if (chart.xUnit === "%") x = Math.round(x * 2) / 2;
      point(live.clientHeight / 3);
    });
  }

  for (const row of document.querySelectorAll("[data-tip]")) {
    const live = row.closest(".live");
    row.addEventListener("pointermove", (event) => show(live, row.dataset.tip, ...at(live, event)));
    row.addEventListener("pointerleave", () => hide(live));
  }

  // On paper nothing can be opened.
  addEventListener("beforeprint", () => { for (const d of document.querySelectorAll("details")) d.open = true; });

  if (data.map) map(data.map);

  function map({ groups, runs }) {
    const box = document.getElementById("map-groups");
    const run = document.getElementById("map-run"), time = document.getElementById("map-time");
    const now = document.getElementById("map-now"), play = document.getElementById("map-play");
    const gpus = groups.reduce((sum, g) => sum + g.nodes.reduce((s, n) => s + n.gpus, 0), 0);
    const size = gpus > 20000 ? 3 : gpus > 2000 ? 6 : 12; // of a box, in pixels of the page
    const step = size + 1, between = Math.ceil(size / 3) + 1;

    // A frame is decoded when it is first shown.
    const used = (frame) => (frame.bytes ??= Uint8Array.from(atob(frame.used), (c) => c.charCodeAt(0)));

    const rgb = (colour) => [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
    let colours;
    const readColours = () => {
      const low = rgb(style("--low")), most = rgb(style("--most"));
      colours = Array.from({ length: 101 }, (_, i) =>
        i === 0 ? style("--idle") : i === 100 ? style("--full")
          : `rgb(${low.map((v, c) => Math.round(v + (most[c] - v) * (i - 1) / 98)).join(" ")})`);
    };

    const places = groups.map((group, i) => ({ group, canvas: box.querySelectorAll("canvas")[i], nodes: [] }));

    // lay gives every node its place: columns from left to right, in as many rows as it takes.
    const lay = () => {
      const width = box.clientWidth, scale = devicePixelRatio || 1;
      for (const place of places) {
        let x = 0, y = 0, tall = 0;
        place.nodes = place.group.nodes.map((node) => {
          if (x + size > width) { x = 0; y += tall + between; tall = 0; }
          const where = { x, y, node };
          x += step + between - 1;
          tall = Math.max(tall, node.gpus * step);
          return where;
        });
        place.canvas.width = Math.round(width * scale);
        place.canvas.height = Math.round((y + tall) * scale);
        place.canvas.style.height = y + tall + "px";
        place.scale = scale;
      }
    };

    const draw = () => {
      const frames = runs[run.selectedIndex].frames;
      const frame = frames[time.value];
      if (!frame) { now.textContent = "nothing was kept of this run"; return; }
      const bytes = used(frame);
      let full = 0, idle = 0, sum = 0;
      for (const u of bytes) { sum += u; if (u === 0) idle++; if (u === 100) full++; }
      now.dataset.frame = time.value;
      now.textContent = `${frame.label}: ${number(sum / bytes.length, 1)} % of the GPU capacity is used; ${number(full, 0)} GPUs used up, `
        + `${number(bytes.length - full - idle, 0)} in part, ${number(idle, 0)} idle`;
      time.setAttribute("aria-valuetext", frame.label);
      for (const { canvas, nodes, scale } of places) {
        const to = canvas.getContext("2d");
        to.setTransform(scale, 0, 0, scale, 0, 0);
        to.clearRect(0, 0, canvas.width, canvas.height);
        for (const { x, y, node } of nodes) {
          for (let g = 0; g < node.gpus; g++) {
            to.fillStyle = colours[bytes[node.first + g]];
            to.fillRect(x, y + g * step, size, size);
          }
        }
      }
    };

    const find = (place, x, y) => {
      for (const n of place.nodes) {
        const g = Math.floor((y - n.y) / step);
        if (x >= n.x && x < n.x + step && y >= n.y && g < n.node.gpus) return [n.node, g];
      }
      return null;
    };
    for (const place of places) {
      place.canvas.addEventListener("pointermove", (event) => {
        const hit = find(place, event.offsetX, event.offsetY);
        const frame = runs[run.selectedIndex].frames[time.value];
        if (!hit || !frame) return hide(box);
        const [node, g] = hit;
        show(box, `${node.name}, GPU ${g}: ${used(frame)[node.first + g]} % used`, ...at(box, event));
      });
      place.canvas.addEventListener("pointerleave", () => hide(box));
    }

    let timer;
    const stop = () => { clearInterval(timer); timer = undefined; play.textContent = "Play"; };
    play.addEventListener("click", () => {
      if (timer) return stop();
      if (time.value === time.max) time.value = 0;
      play.textContent = "Stop";
      timer = setInterval(() => {
        time.value = Number(time.value) + 1;
        draw();
        if (time.value === time.max) stop();
      }, 150);
    });
    time.addEventListener("input", () => { stop(); draw(); });
    run.addEventListener("change", () => {
      stop();
      // The same part of the way, where runs have different numbers of frames.
      const part = time.max > 0 ? time.value / time.max : 1;
      time.max = Math.max(0, runs[run.selectedIndex].frames.length - 1);
      time.value = Math.round(part * time.max);
      draw();
    });
    const again = () => { readColours(); lay(); draw(); };
    new ResizeObserver(again).observe(box);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
    matchMedia("print").addEventListener("change", again);
    again();
  }
})();

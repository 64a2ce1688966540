// The map of a slide's tiles: layers, zoom, pan, and what each tile adds. It only ever sets text, never HTML.
"use strict";
(() => {
  const holder = document.getElementById("tile-data");
  if (!holder) return;
  const data = JSON.parse(holder.textContent);
  const canvas = document.getElementById("view");
  const context = canvas.getContext("2d");
  const readout = document.getElementById("view-tile");
  const picture = document.getElementById("whole");
  const [width, height] = data.size;
  const number = data.x.length;
  const byRank = new Array(number);
  data.rank.forEach((rank, tile) => { byRank[rank - 1] = tile; });

  const MOST = 60; // times the whole slide's scale
  const view = { scale: 1, x: 0, y: 0 }; // CSS pixels per level-0 pixel; level-0 place of the upper left corner
  let fitted = 1;
  let atHome = true;
  let hovered = -1;
  let chosen = -1;

  document.documentElement.classList.add("scripted");

  // Layers

  const box = (key) => document.getElementById(`layer-${key}`);
  const shown = (key) => { const found = box(key); return Boolean(found && found.checked); };
  const strength = document.getElementById("strength");

  for (const key of ["slide", "tissue", "contribution", "attention", "grid"]) {
    const own = box(key);
    if (!own) continue;
    own.addEventListener("change", () => {
      // Two colourings on one tile could not be told apart.
      const other = { contribution: "attention", attention: "contribution" }[key];
      if (other && own.checked && box(other)) box(other).checked = false;
      draw();
    });
  }
  strength.addEventListener("input", () => draw());

  // Colours

  const mix = (from, to, share) => from.map((part, at) => part + share * (to[at] - part));
  const css = (colour) => `rgb(${colour.map(Math.round).join(",")})`;
  const white = [255, 255, 255];
  const contributionColours = data.value.map((value, tile) => {
    const share = Math.min(1, Math.abs(value) / data.limit);
    const colour = mix(data.colours.neutral, value < 0 ? data.colours.lowers : data.colours.raises, share);
    return css(data.told[tile] ? colour : mix(colour, white, data.colours.paler));
  });
  const attentionColours = data.attention
    ? data.attention.map((value) => css(mix(white, data.colours.attended, Math.min(1, value / data.attended))))
    : null;

  // Drawing

  const right = (tile) => Math.min(data.x[tile] + data.side[0], width);
  const bottom = (tile) => Math.min(data.y[tile] + data.side[1], height);
  const rectangle = (tile) => [data.x[tile], data.y[tile], right(tile) - data.x[tile], bottom(tile) - data.y[tile]];

  function draw() {
    const ratio = canvas.width / canvas.clientWidth || 1;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.fillStyle = "#eef0f3";
    context.fillRect(0, 0, canvas.width, canvas.height);
    const scale = view.scale * ratio;
    context.setTransform(scale, 0, 0, scale, -view.x * scale, -view.y * scale);
    const pixel = 1 / view.scale; // one CSS pixel, in level-0 pixels
    context.fillStyle = "#fff";
    context.fillRect(0, 0, width, height);
    if (shown("slide") && picture && picture.complete) context.drawImage(picture, 0, 0, width, height);
    drawTiles(pixel);
    if (shown("tissue")) drawOutline(pixel);
    if (hovered >= 0 && hovered !== chosen) drawFrame(hovered, pixel);
    if (chosen >= 0) drawFrame(chosen, pixel);
    drawScaleBar(ratio);
    canvas.dataset.zoom = (view.scale / fitted).toFixed(3);
    canvas.dataset.x = view.x.toFixed(1);
    canvas.dataset.y = view.y.toFixed(1);
  }

  function drawTiles(pixel) {
    const colours = shown("attention") ? attentionColours : shown("contribution") ? contributionColours : null;
    const grid = shown("grid");
    const endX = view.x + canvas.clientWidth * pixel;
    const endY = view.y + canvas.clientHeight * pixel;
    const told = shown("contribution");
    const wide = data.side[0] * view.scale; // CSS pixels of a tile
    for (let tile = 0; tile < number; tile += 1) {
      const place = rectangle(tile);
      if (place[0] > endX || place[1] > endY || place[0] + place[2] < view.x || place[1] + place[3] < view.y) continue;
      if (colours) {
        context.globalAlpha = Number(strength.value) / 100;
        context.fillStyle = colours[tile];
        context.fillRect(...place);
        context.globalAlpha = 1;
      }
      if (told && data.told[tile] && wide >= 6) {
        context.strokeStyle = css(data.value[tile] < 0 ? data.colours.lowers : data.colours.raises);
        context.lineWidth = 2.5 * pixel;
        const inner = 1.5 * pixel;
        context.strokeRect(place[0] + inner, place[1] + inner, place[2] - 2 * inner, place[3] - 2 * inner);
      } else if (grid && wide >= 10) {
        context.strokeStyle = "rgba(40,46,58,.5)";
        context.lineWidth = pixel;
        context.strokeRect(...place);
      }
    }
  }

  function drawOutline(pixel) {
    context.beginPath();
    for (const line of data.outline) {
      for (let at = 0; at < line.length; at += 2) {
        if (at) context.lineTo(line[at], line[at + 1]);
        else context.moveTo(line[at], line[at + 1]);
      }
      context.closePath();
    }
    context.lineJoin = "round";
    for (const [colour, thick] of [["#fff", 3.5], ["#14532d", 1.6]]) {
      context.strokeStyle = colour;
      context.lineWidth = thick * pixel;
      context.stroke();
    }
  }

  function drawFrame(tile, pixel) {
    for (const [colour, thick] of [["#fff", 6], ["#111", 3]]) {
      context.strokeStyle = colour;
      context.lineWidth = thick * pixel;
      context.strokeRect(...rectangle(tile));
    }
  }

  function drawScaleBar(ratio) {
    if (!data.mpp) return;
    const most = (120 / view.scale) * data.mpp[0]; // µm that 120 CSS pixels span
    const power = 10 ** Math.floor(Math.log10(most));
    const length = [5, 2, 1].map((step) => step * power).find((step) => step <= most);
    const span = (length / data.mpp[0]) * view.scale;
    const text = length >= 1000 ? `${length / 1000} mm` : `${length} µm`;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    const base = canvas.clientHeight - 14;
    context.fillStyle = "rgba(255,255,255,.88)";
    context.fillRect(8, base - 24, span + 16, 32);
    context.fillStyle = "#1d2430";
    context.fillRect(16, base, span, 3);
    context.font = "12px system-ui, sans-serif";
    context.fillText(text, 16, base - 7);
  }

  // The view

  function resize() {
    const ratio = window.devicePixelRatio || 1;
    const [across, down] = [canvas.clientWidth, canvas.clientHeight];
    if (!across || !down) return;
    canvas.width = Math.round(across * ratio);
    canvas.height = Math.round(down * ratio);
    fitted = 0.97 * Math.min(across / width, down / height);
    if (atHome) fit();
    else draw();
  }

  function fit() {
    view.scale = fitted;
    view.x = (width - canvas.clientWidth / fitted) / 2;
    view.y = (height - canvas.clientHeight / fitted) / 2;
    atHome = true;
    draw();
  }

  // Zoom about a place of the canvas, in CSS pixels, which stays where it is.
  function zoom(by, x = canvas.clientWidth / 2, y = canvas.clientHeight / 2) {
    const scale = Math.min(Math.max(view.scale * by, fitted / 2), fitted * MOST);
    view.x += x / view.scale - x / scale;
    view.y += y / view.scale - y / scale;
    view.scale = scale;
    atHome = false;
    keepInside();
    draw();
  }

  function pan(x, y) {
    view.x += x / view.scale;
    view.y += y / view.scale;
    atHome = false;
    keepInside();
    draw();
  }

  // The middle of the view stays on the slide.
  function keepInside() {
    const [halfX, halfY] = [canvas.clientWidth / view.scale / 2, canvas.clientHeight / view.scale / 2];
    view.x = Math.min(Math.max(view.x, -halfX), width - halfX);
    view.y = Math.min(Math.max(view.y, -halfY), height - halfY);
  }

  // Tiles

  const minus = (text) => text.replace("-", "−");
  function decimals(value) {
    if (value === 0) return 2;
    return Math.min(9, Math.max(2, 2 - Math.floor(Math.log10(Math.abs(value)))));
  }

  function described(tile) {
    const [value, sd] = [data.value[tile], data.sd ? data.sd[tile] : 0];
    const places = decimals(Math.max(Math.abs(value), sd));
    let text = `Tile ${tile + 1}: contribution ${value > 0 ? "+" : ""}${minus(value.toFixed(places))}`;
    if (data.sd) text += ` ± ${sd.toFixed(places)}`;
    if (!data.told[tile]) text += ", not told from zero";
    if (data.attention) text += `; attention ${data.attention[tile].toPrecision(4)}`;
    return `${text}; rank ${data.rank[tile]} of ${number}; at ${data.x[tile]}, ${data.y[tile]} px`;
  }

  function tell() {
    const tile = hovered >= 0 ? hovered : chosen;
    readout.textContent = tile >= 0 ? described(tile) : "No tile chosen.";
    if (tile >= 0) canvas.dataset.tile = String(tile + 1);
    else delete canvas.dataset.tile;
  }

  function tileAt(x, y) {
    const [across, down] = [view.x + x / view.scale, view.y + y / view.scale];
    for (let tile = number - 1; tile >= 0; tile -= 1) {
      if (across >= data.x[tile] && across < right(tile) && down >= data.y[tile] && down < bottom(tile)) return tile;
    }
    return -1;
  }

  function choose(tile) {
    chosen = tile;
    hovered = -1;
    if (tile >= 0) {
      const [x, y] = [(data.x[tile] + right(tile)) / 2, (data.y[tile] + bottom(tile)) / 2];
      const [across, down] = [(x - view.x) * view.scale, (y - view.y) * view.scale];
      if (across < 20 || down < 20 || across > canvas.clientWidth - 20 || down > canvas.clientHeight - 20) {
        pan(across - canvas.clientWidth / 2, down - canvas.clientHeight / 2);
      }
    }
    tell();
    draw();
  }

  function chooseByRank(step) {
    const at = chosen < 0 ? (step > 0 ? 0 : number - 1) : (data.rank[chosen] - 1 + step + number) % number;
    choose(byRank[at]);
  }

  // Pointers: one pans, two pinch.

  const pointers = new Map();
  let moved = 0;
  const at = (event) => {
    const frame = canvas.getBoundingClientRect();
    return [event.clientX - frame.left - canvas.clientLeft, event.clientY - frame.top - canvas.clientTop];
  };

  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, at(event));
    moved = 0;
  });

  canvas.addEventListener("pointermove", (event) => {
    const now = at(event);
    const before = pointers.get(event.pointerId);
    if (!before) {
      const tile = tileAt(...now);
      if (tile !== hovered) {
        hovered = tile;
        tell();
        draw();
      }
      return;
    }
    moved += Math.hypot(now[0] - before[0], now[1] - before[1]);
    if (pointers.size === 2) {
      const [, other] = [...pointers].find(([key]) => key !== event.pointerId);
      const distance = (place) => Math.max(1, Math.hypot(place[0] - other[0], place[1] - other[1]));
      zoom(distance(now) / distance(before), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
    } else {
      pan(before[0] - now[0], before[1] - now[1]);
    }
    pointers.set(event.pointerId, now);
  });

  function released(event) {
    if (pointers.delete(event.pointerId) && event.type === "pointerup" && moved < 4) choose(tileAt(...at(event)));
  }
  canvas.addEventListener("pointerup", released);
  canvas.addEventListener("pointercancel", released);
  canvas.addEventListener("pointerleave", () => {
    hovered = -1;
    tell();
    draw();
  });

  // A wheel over a picture that nobody chose goes on scrolling the page.
  canvas.addEventListener("wheel", (event) => {
    if (document.activeElement !== canvas && !event.ctrlKey) return;
    event.preventDefault();
    zoom(Math.exp(-event.deltaY / 400), ...at(event));
  }, { passive: false });

  const STEP = 60; // CSS pixels
  const keys = {
    ArrowLeft: () => pan(-STEP, 0),
    ArrowRight: () => pan(STEP, 0),
    ArrowUp: () => pan(0, -STEP),
    ArrowDown: () => pan(0, STEP),
    "+": () => zoom(1.4),
    "=": () => zoom(1.4),
    "-": () => zoom(1 / 1.4),
    0: fit,
    n: () => chooseByRank(1),
    p: () => chooseByRank(-1),
    Home: () => choose(byRank[0]),
    End: () => choose(byRank[number - 1]),
    Escape: () => choose(-1),
  };
  canvas.addEventListener("keydown", (event) => {
    const act = keys[event.key] || keys[event.key.toLowerCase()];
    if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    act();
  });

  document.getElementById("zoom-in").addEventListener("click", () => zoom(1.6));
  document.getElementById("zoom-out").addEventListener("click", () => zoom(1 / 1.6));
  document.getElementById("zoom-fit").addEventListener("click", fit);

  for (const button of document.querySelectorAll("button[data-tile]")) {
    button.addEventListener("click", () => {
      choose(Number(button.dataset.tile) - 1);
      canvas.focus();
      canvas.scrollIntoView({ block: "center" });
    });
  }

  if (picture) picture.decode().then(() => draw());
  new ResizeObserver(resize).observe(canvas);
  resize();
})();

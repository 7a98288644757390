"use strict";
// The page's state lives in the address: #zoom=4&x=0.3&y=0.3&swipe=0.5&left=FBP&right=TV; (x, y) is the corner shown top left.
const hash = new URLSearchParams(location.hash.slice(1));
const number = (key, otherwise) => { const v = parseFloat(hash.get(key)); return Number.isFinite(v) ? v : otherwise; };
const clamp = (v, low, high) => Math.min(Math.max(v, low), high);
const frame = { zoom: clamp(number("zoom", 1), 1, 40), x: number("x", 0), y: number("y", 0) };
let remembering = 0;

function remember(entries) {
  for (const [key, value] of Object.entries(entries)) hash.set(key, value);
  clearTimeout(remembering);
  remembering = setTimeout(() => history.replaceState(null, "", "#" + hash.toString()), 200);
}

function element(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

// Zoom and pan: every image of the page shows the same part.
function show() {
  const free = 1 - 1 / frame.zoom;
  frame.x = clamp(frame.x, 0, free);
  frame.y = clamp(frame.y, 0, free);
  for (const image of document.querySelectorAll(".view img"))
    image.style.transform = `scale(${frame.zoom}) translate(${-100 * frame.x}%, ${-100 * frame.y}%)`;
  for (const bar of document.querySelectorAll(".scale")) {
    const field = parseFloat(bar.dataset.mm) / frame.zoom, power = 10 ** Math.floor(Math.log10(field / 4));
    const length = [5, 2, 1].map(f => f * power).find(l => l <= field / 4);
    bar.style.width = 100 * length / field + "%";
    bar.firstChild.textContent = +length.toPrecision(3) + " mm";
  }
}

function zoomAt(u, v, factor) {
  const zoom = clamp(frame.zoom * factor, 1, 40);
  frame.x += u * (1 / frame.zoom - 1 / zoom);
  frame.y += v * (1 / frame.zoom - 1 / zoom);
  frame.zoom = zoom;
  move();
}

function move() {
  show();
  remember({ zoom: +frame.zoom.toFixed(3), x: +frame.x.toFixed(4), y: +frame.y.toFixed(4) });
}

function navigable(view) {
  const at = event => {
    const box = view.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  };
  view.addEventListener("wheel", event => { event.preventDefault(); zoomAt(...at(event), Math.exp(-event.deltaY / 400)); }, { passive: false });
  view.addEventListener("dblclick", event => zoomAt(...at(event), event.shiftKey ? 0.5 : 2));
  view.addEventListener("pointerdown", event => {
    if (event.button !== 0) return;
    let last = at(event);
    view.setPointerCapture(event.pointerId);
    const drag = e => {
      const now = at(e);
      frame.x -= (now[0] - last[0]) / frame.zoom;
      frame.y -= (now[1] - last[1]) / frame.zoom;
      last = now;
      move();
    };
    view.addEventListener("pointermove", drag);
    view.addEventListener("lostpointercapture", () => view.removeEventListener("pointermove", drag), { once: true });
  });
}

// A swipe between any two images of a group; the first group of the page is the one in the address.
function swipe(group, index) {
  const sources = [...group.querySelectorAll(".view img")];
  if (sources.length < 2) return;
  const names = sources.map(image => image.alt);
  const key = name => index ? name + index : name;
  const chosen = (name, otherwise) => names.includes(hash.get(key(name))) ? hash.get(key(name)) : otherwise;
  const under = element("img", {}), over = element("img", {});
  const top = element("div", { className: "top" }, over), divider = element("div", { className: "divider" });
  const tags = [element("span", { className: "tag" }), element("span", { className: "tag" })];
  tags[0].style.left = tags[1].style.right = "8px";
  const view = element("div", { className: "view" }, under, top, ...tags, divider);
  const range = element("input", { type: "range", min: 0, max: 1, step: 0.001, value: number(key("swipe"), 0.5), ariaLabel: "position of the swipe" });
  const picks = [["left", chosen("left", names.length > 2 ? names[1] : names[0])], ["right", chosen("right", names.at(-1))]].map(([side, value]) => {
    const select = element("select", { ariaLabel: side + " image" }, ...names.map(n => element("option", { value: n, textContent: n })));
    select.value = value;
    select.addEventListener("change", () => { remember({ [key(side)]: select.value }); update(); });
    return select;
  });
  const reset = element("button", { type: "button", textContent: "reset zoom" });
  reset.addEventListener("click", () => { frame.zoom = 1; move(); });

  function update() {
    under.src = sources[names.indexOf(picks[0].value)].src;
    over.src = sources[names.indexOf(picks[1].value)].src;
    under.alt = tags[0].textContent = picks[0].value;
    over.alt = tags[1].textContent = picks[1].value;
    top.style.clipPath = `inset(0 0 0 ${100 * range.value}%)`;
    divider.style.left = 100 * range.value + "%";
  }

  range.addEventListener("input", () => { remember({ [key("swipe")]: range.value }); update(); });
  divider.addEventListener("pointerdown", event => {
    event.stopPropagation();
    divider.setPointerCapture(event.pointerId);
  });
  divider.addEventListener("pointermove", event => {
    if (!divider.hasPointerCapture(event.pointerId)) return;
    const box = view.getBoundingClientRect();
    range.value = clamp((event.clientX - box.left) / box.width, 0, 1);
    range.dispatchEvent(new Event("input"));
  });
  const hint = element("span", { className: "hint", textContent: "wheel or double click zooms, drag pans, all images together" });
  const controls = element("div", { className: "controls" }, "Swipe ", picks[0], " against ", picks[1], reset, hint);
  group.querySelector(".views").before(element("div", { className: "swipe" }, controls, view, range));
  update();
}

// Values of a chart under the pointer.
function readable(chart) {
  const svg = chart.querySelector("svg"), tip = chart.querySelector(".tip"), cursor = svg.querySelector(".cursor");
  const { x: label, series } = JSON.parse(chart.querySelector("script").textContent);
  const dots = series.map((_, k) => {
    const dot = document.createElementNS(svg.namespaceURI, "circle");
    dot.setAttribute("class", "s" + (k % 6));
    dot.setAttribute("r", 4);
    dot.setAttribute("visibility", "hidden");
    svg.append(dot);
    return dot;
  });
  svg.addEventListener("pointermove", event => {
    const box = svg.getBoundingClientRect(), scale = svg.viewBox.baseVal.width / box.width, px = (event.clientX - box.left) * scale;
    const near = series.map(s => s.values.reduce((a, b) => Math.abs(b[2] - px) < Math.abs(a[2] - px) ? b : a));
    const closest = near.reduce((a, b) => Math.abs(b[2] - px) < Math.abs(a[2] - px) ? b : a);
    cursor.setAttribute("x1", closest[2]);
    cursor.setAttribute("x2", closest[2]);
    cursor.removeAttribute("hidden");
    const lines = [`${label} ${closest[0]}`];
    near.forEach((value, k) => {
      const here = Math.abs(value[2] - closest[2]) < 8;
      dots[k].setAttribute("visibility", here ? "visible" : "hidden");
      dots[k].setAttribute("cx", value[2]);
      dots[k].setAttribute("cy", value[3]);
      if (here) lines.push(`${series[k].name}  ${value[1]}`);
    });
    tip.textContent = lines.join("\n");
    tip.hidden = false;
    tip.style.left = Math.min(closest[2] / scale + 14, box.width - tip.offsetWidth) + "px";
    tip.style.top = (event.clientY - chart.getBoundingClientRect().top + 12) + "px";
  });
  svg.addEventListener("pointerleave", () => {
    tip.hidden = true;
    cursor.setAttribute("hidden", "");
    for (const dot of dots) dot.setAttribute("visibility", "hidden");
  });
}

document.querySelectorAll(".group").forEach(swipe);
for (const group of document.querySelectorAll(".group[data-mm]"))
  for (const view of group.querySelectorAll(".view")) {
    const bar = element("div", { className: "scale" }, element("span", {}));
    bar.dataset.mm = group.dataset.mm;
    view.append(bar);
  }
document.querySelectorAll(".view").forEach(navigable);
document.querySelectorAll(".chart").forEach(readable);
show();
document.documentElement.dataset.ready = "1";

"use strict";
// Each picture zooms and moves by its viewBox, so that outlines stay sharp; the checkboxes need no script but for keys.
const LARGEST = 40, STEP = 1.4, KEYS = ["image", "truth", "prediction", "missed", "spurious"];

function clamp(value, low, high) {
  return Math.min(Math.max(value, low), high);
}

function start(viewer) {
  const svg = viewer.querySelector("svg");
  const { width, height } = svg.viewBox.baseVal;
  const output = viewer.querySelector("output");
  const view = { x: 0, y: 0, scale: 1 };

  function show() {
    view.x = clamp(view.x, 0, width - width / view.scale);
    view.y = clamp(view.y, 0, height - height / view.scale);
    svg.setAttribute("viewBox", [view.x, view.y, width / view.scale, height / view.scale].join(" "));
    viewer.dataset.scale = String(Number(view.scale.toFixed(3)));
    output.value = `${Math.round(100 * view.scale)} %`;
  }

  // `at`, a point of the picture, stays where it is.
  function zoom(factor, at = { x: view.x + width / view.scale / 2, y: view.y + height / view.scale / 2 }) {
    const before = view.scale;
    view.scale = clamp(before * factor, 1, LARGEST);
    view.x = at.x - (at.x - view.x) * before / view.scale;
    view.y = at.y - (at.y - view.y) * before / view.scale;
    show();
  }

  function move(right, down) {
    view.x += right;
    view.y += down;
    show();
  }

  function whole() {
    view.scale = 1;
    show();
  }

  function box(layer) {
    return viewer.querySelector(`[data-layer="${layer}"]`);
  }

  function toggle(layer) {
    if (box(layer)) box(layer).checked = !box(layer).checked;
  }

  // Leaves only what is wrong; again, brings everything back.
  function errorsOnly() {
    const all = !box("truth").checked && !box("prediction").checked;
    for (const layer of ["truth", "prediction"]) box(layer).checked = all;
    for (const layer of ["missed", "spurious"]) box(layer).checked = true;
  }

  function fullscreen() {
    if (document.fullscreenElement) document.exitFullscreen();
    else viewer.requestFullscreen();
  }

  const actions = {
    "+": () => zoom(STEP), "=": () => zoom(STEP), "-": () => zoom(1 / STEP), "0": whole, e: errorsOnly, f: fullscreen,
    ArrowLeft: () => move(-0.15 * width / view.scale, 0), ArrowRight: () => move(0.15 * width / view.scale, 0),
    ArrowUp: () => move(0, -0.15 * height / view.scale), ArrowDown: () => move(0, 0.15 * height / view.scale),
    Escape: () => document.activeElement.blur(),
  };
  KEYS.forEach((layer, place) => { actions[String(place + 1)] = () => toggle(layer); });

  viewer.addEventListener("keydown", (event) => {
    const action = actions[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key.startsWith("Arrow") && view.scale === 1) return; // the page scrolls
    event.preventDefault();
    action();
  });
  for (const button of viewer.querySelectorAll("button")) {
    button.addEventListener("click", actions[button.dataset.key]);
  }

  function place(event) {
    return new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
  }

  // Without the focus the page scrolls, as it does where there is nothing left to zoom.
  svg.addEventListener("wheel", (event) => {
    const wanted = event.ctrlKey || event.metaKey || viewer.contains(document.activeElement);
    if (!wanted || (event.deltaY > 0 && view.scale === 1 && !event.ctrlKey)) return;
    event.preventDefault();
    const lines = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 30 : 1;
    zoom(Math.exp(clamp(-event.deltaY * lines, -120, 120) * (event.ctrlKey ? 0.008 : 0.003)), place(event));
  }, { passive: false });

  // One pointer drags. Two pinch: what lies between them stays there, and grows with their distance.
  const pointers = new Map();
  function grip() {
    const points = [...pointers.values()].map(place);
    const [first, last] = [points[0], points[points.length - 1]];
    const spread = Math.hypot(first.x - last.x, first.y - last.y) * view.scale;
    return { x: (first.x + last.x) / 2, y: (first.y + last.y) / 2, spread };
  }
  svg.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    pointers.set(event.pointerId, event);
    svg.setPointerCapture(event.pointerId);
  });
  svg.addEventListener("pointermove", (event) => {
    if (!pointers.has(event.pointerId)) return;
    const before = grip();
    pointers.set(event.pointerId, event);
    const after = grip();
    move(before.x - after.x, before.y - after.y);
    if (before.spread && after.spread) zoom(after.spread / before.spread, before);
  });
  for (const name of ["pointerup", "pointercancel"]) {
    svg.addEventListener(name, (event) => pointers.delete(event.pointerId));
  }
  show();
}

document.querySelectorAll(".viewer").forEach(start);

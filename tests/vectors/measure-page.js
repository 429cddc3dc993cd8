// Measures each framed page as it is drawn, and writes what it found as JSON.
function measure(frame) {
  const page = frame.contentDocument, view = frame.contentWindow;
  page.querySelectorAll("details").forEach((one) => { one.open = true; });
  const width = page.documentElement.clientWidth;
  const found = { width, wide: [], scrolled: [], hidden: [], smallest: 99, texts: 0 };
  const name = (e) => `${e.tagName} ${e.textContent.trim().slice(0, 40)}`;
  if (page.documentElement.scrollWidth > width) found.scrolled.push("the page");

  const letters = (element, pseudo, text) => {
    const size = parseFloat(view.getComputedStyle(element, pseudo).fontSize);
    const matrix = element.getScreenCTM ? element.getScreenCTM().a : 1;
    found.texts += 1;
    if (size * matrix < found.smallest) {
      found.smallest = size * matrix;
      found.smallest_text = text;
    }
  };
  const hiddenFromSight = (e) => e.closest("thead") && width < 700;
  const walker = page.createTreeWalker(page.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const text = node.textContent.trim(), parent = node.parentElement;
    if (!text || hiddenFromSight(parent)) continue;
    letters(parent, null, text.slice(0, 40));
    const range = page.createRange();
    range.selectNodeContents(node);
    for (const box of range.getClientRects()) {
      if (box.right > width + 0.5 || box.left < -0.5) found.wide.push(name(parent));
    }
  }
  for (const e of page.body.querySelectorAll("*")) {
    if (hiddenFromSight(e)) continue;
    const box = e.getBoundingClientRect();
    if (box.right > width + 0.5 || box.left < -0.5) found.wide.push(name(e));
    if (e.scrollWidth > e.clientWidth + 1 && e.clientWidth > 1 && !e.closest("svg")) {
      found.scrolled.push(name(e));
    }
    if (view.getComputedStyle(e, "::before").content.startsWith('"')) {
      letters(e, "::before", "label of " + name(e));
    }
  }
  found.marks = page.querySelectorAll("svg.plot .mark").length;
  for (const plot of page.querySelectorAll("svg.plot")) {
    const parts = [...plot.querySelectorAll("text,.mark")];
    const boxes = parts.map((part) => part.getBoundingClientRect());
    boxes.forEach((a, i) => boxes.slice(0, i).forEach((b, j) => {
      const across = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const down = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (across > 1 && down > 2) found.hidden.push([name(parts[i]), name(parts[j])]);
    }));
  }
  return found;
}
window.addEventListener("load", () => {
  const found = {};
  for (const frame of document.querySelectorAll("iframe")) found[frame.id] = measure(frame);
  document.querySelectorAll("iframe").forEach((frame) => frame.remove());
  document.getElementById("found").textContent = JSON.stringify(found);
});

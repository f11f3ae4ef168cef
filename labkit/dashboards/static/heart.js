// The browser asks, the kernel answers; where no answer comes, the page says that what it shows is old.
// It asks only while somebody uses the page, so that the server may end kernels nobody uses.
const EVERY = 2500, PATIENCE = 12000, IN_USE = 90000;

function render({ model, el }) {
  el.classList.add("lk-heart");
  el.setAttribute("role", "alert");
  let used = performance.now(), waiting = 0;

  function banner(on) {
    if (on === el.classList.contains("lk-on")) return;
    el.classList.toggle("lk-on", on);
    el.replaceChildren();
    if (!on) return;
    const words = document.createElement("span");
    words.textContent = "The kernel behind this page has stopped answering: it ended, or it slept after a long pause. " +
      "What is shown here no longer changes. ";
    const button = document.createElement("button");
    button.textContent = "Reload the page";
    button.onclick = () => location.reload();
    el.append(words, button);
  }

  function ask() {
    const now = performance.now();
    if (document.visibilityState !== "visible" || now - used > IN_USE) { waiting = 0; return; }
    if (waiting && now - waiting > PATIENCE) banner(true);
    if (!waiting) waiting = now;
    model.send({ beat: now });
  }

  function use() {
    const slept = performance.now() - used > IN_USE;
    used = performance.now();
    if (slept) ask();
  }

  // ipywidgets writes a slider's name beside it, where a screen reader does not look for it.
  function name() {
    for (const handle of document.querySelectorAll(".widget-slider .noUi-handle:not([aria-label])")) {
      const label = handle.closest(".widget-slider").querySelector(".widget-label");
      if (label && label.textContent) handle.setAttribute("aria-label", label.textContent);
    }
  }

  const names = new MutationObserver(name);
  name();  // of the sliders that were there before
  names.observe(document.body, { childList: true, subtree: true, characterData: true });
  const events = ["pointermove", "pointerdown", "keydown", "focus"];
  const timer = setInterval(ask, EVERY);
  events.forEach((event) => window.addEventListener(event, use, { passive: true }));
  model.on("msg:custom", () => { waiting = 0; banner(false); });
  model.send({ beat: 0 });  // at once, however soon the page is left again: the kernel need not keep itself ready
  return () => {
    clearInterval(timer);
    names.disconnect();
    events.forEach((event) => window.removeEventListener(event, use));
  };
}
export default { render };

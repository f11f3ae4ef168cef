// Tiles in one picture; one of them is chosen, by pointer or by arrow keys.
function render({ model, el }) {
  el.classList.add("lk-mosaic");
  el.tabIndex = 0;
  el.setAttribute("role", "listbox");
  const img = document.createElement("img"), mark = document.createElement("span");
  img.className = "lk-pixels";
  img.alt = "";
  mark.className = "lk-mark";
  mark.setAttribute("role", "option");
  mark.setAttribute("aria-selected", "true");
  mark.id = `lk-mark-${Math.random().toString(36).slice(2)}`;
  el.setAttribute("aria-activedescendant", mark.id);
  el.append(img, mark);

  function place() {
    const across = model.get("across"), down = Math.ceil(model.get("count") / across), at = model.get("chosen");
    mark.style.width = `${100 / across}%`;
    mark.style.height = `${100 / down}%`;
    mark.style.left = `${(100 * (at % across)) / across}%`;
    mark.style.top = `${(100 * Math.floor(at / across)) / down}%`;
    mark.setAttribute("aria-label", `filter ${at + 1} of ${model.get("count")}`);
  }

  function show() {
    const before = img.src;
    img.src = URL.createObjectURL(new Blob([model.get("picture")]));
    if (before) URL.revokeObjectURL(before);
    img.style.width = `${model.get("width")}px`;
    el.setAttribute("aria-label", model.get("label"));
    place();
  }

  function choose(at) {
    if (at < 0 || at >= model.get("count") || at === model.get("chosen")) return;
    model.set("chosen", at);
    model.save_changes();
  }

  el.onclick = (event) => {
    const box = img.getBoundingClientRect(), across = model.get("across");
    const down = Math.ceil(model.get("count") / across);
    const i = Math.floor(((event.clientY - box.top) / box.height) * down);
    const j = Math.floor(((event.clientX - box.left) / box.width) * across);
    choose(Math.min(i, down - 1) * across + Math.min(j, across - 1));
  };
  el.onkeydown = (event) => {
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -model.get("across"), ArrowDown: model.get("across") };
    if (!(event.key in steps)) return;
    event.preventDefault();
    event.stopPropagation();
    choose(model.get("chosen") + steps[event.key]);
  };
  model.on("change:picture", show);
  model.on("change:chosen", place);
  show();
}
export default { render };

// Pictures with titles, notes and bars. Everything changes in one message, so no picture stands beside another's note.
// An object URL costs a question to another process for every picture: ten milliseconds in all.
function dataURL(view) {
  const bytes = new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
  return "data:;base64," + btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
}

function render({ model, el }) {
  // A box of our own inside: the widget's is cleared of its style when it is laid out.
  const board = document.createElement("div");
  board.className = "lk-board";
  el.append(board);
  let made = [];

  function build(count) {
    board.replaceChildren();
    made = [];
    for (let i = 0; i < count; i++) {
      const figure = document.createElement("figure");
      const title = document.createElement("figcaption");
      const img = document.createElement("img");
      const note = document.createElement("p");
      const bars = document.createElement("ol");
      img.decoding = "sync";
      figure.append(title, img, note, bars);
      board.append(figure);
      made.push({ title, img, note, bars });
    }
  }

  function show() {
    const pictures = model.get("pictures"), images = model.get("images");
    if (pictures.length !== made.length) build(pictures.length);
    board.style.gridTemplateColumns = `repeat(${model.get("across")}, minmax(0, ${model.get("side")}px))`;
    pictures.forEach((picture, i) => {
      const { title, img, note, bars } = made[i];
      title.textContent = picture.title;
      img.alt = picture.alt;
      img.classList.toggle("lk-pixels", picture.pixels);
      img.src = dataURL(images[i]);
      note.textContent = picture.note;
      bars.replaceChildren(...(picture.bars || []).map(([name, share, kind]) => {
        const item = document.createElement("li");
        item.style.setProperty("--share", share);
        item.className = kind;
        item.textContent = `${name} ${(100 * share).toFixed(0)} %`;
        return item;
      }));
    });
    board.dataset.shown = model.get("shown");
  }

  // What was made in the moment in which the browser asked may be told in two messages, "shown" in the first of them.
  let due = false;
  function changed() {
    if (due) return;
    due = true;
    queueMicrotask(() => { due = false; show(); });
  }
  for (const part of ["pictures", "images", "shown"]) model.on(`change:${part}`, changed);
  model.on("change:pending", () => board.classList.toggle("lk-pending", model.get("pending")));
  show();
}
export default { render };

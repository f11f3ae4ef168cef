// A picture of the visitor's own. Its size is looked at here: a message that is too long would end the connection.
function render({ model, el }) {
  el.classList.add("lk-upload");
  const label = document.createElement("label"), input = document.createElement("input");
  const said = document.createElement("output");
  const limit = model.get("limit");
  label.textContent = "your own picture ";
  input.type = "file";
  input.accept = "image/*";
  label.append(input);
  el.append(label, said);
  input.onchange = async () => {
    const file = input.files[0];
    if (!file) return;
    said.textContent = "";
    if (file.size > limit) {
      said.textContent = `${file.name} has ${(file.size / 1e6).toFixed(1)} MB; at most ${limit / 1e6} MB can be ` +
        "taken. Make it smaller and choose it again.";
    } else {
      model.send({ name: file.name }, undefined, [await file.arrayBuffer()]);
    }
    input.value = "";
  };
  model.on("change:said", () => { said.textContent = model.get("said"); });
}
export default { render };

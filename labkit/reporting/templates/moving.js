// A slider for every figure of moving pictures: the frames lie in the page, and one of them is shown at a time.
// Where this does not run, and in print, all of them stand side by side.
document.querySelectorAll("figure.moving").forEach((figure, at) => {
  const frames = [...figure.querySelectorAll(".frame[data-value]")];
  if (frames.length < 2) return;
  const box = document.createElement("p"), label = document.createElement("label");
  const slider = document.createElement("input"), told = document.createElement("output");
  box.className = "slider";
  slider.type = "range";
  slider.id = `slider-${at + 1}`;
  slider.min = 0;
  slider.max = frames.length - 1;
  slider.value = Math.floor((frames.length - 1) / 2);
  label.htmlFor = told.htmlFor = slider.id;
  label.textContent = frames[0].dataset.symbol;
  box.append(label, slider, told);
  figure.prepend(box);
  figure.classList.add("on");
  const show = () => {
    frames.forEach((frame, i) => frame.classList.toggle("now", i === Number(slider.value)));
    told.textContent = frames[slider.value].dataset.value;
    slider.setAttribute("aria-valuetext", `${label.textContent} = ${told.textContent}`);
  };
  slider.addEventListener("input", show);
  show();
});

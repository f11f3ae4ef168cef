// Shows the picture of the point that is pointed at, of any plotly chart on the page whose points carry one.
function render({ model, el }) {
  el.classList.add("lk-hover");
  const img = document.createElement("img"), words = document.createElement("p"), known = new WeakSet();
  img.alt = "";
  words.textContent = model.get("hint");
  el.append(img, words);

  function point(event) {
    const data = event.points[0] && event.points[0].customdata;
    const [picture, text] = Array.isArray(data) ? data : [data, ""];
    if (typeof picture !== "string" || !picture.startsWith("data:image/")) return;
    img.src = picture;
    img.alt = words.textContent = text;
  }

  const timer = setInterval(() => {
    for (const chart of document.querySelectorAll(".js-plotly-plot")) {
      if (known.has(chart) || !chart.on) continue;
      known.add(chart);
      chart.on("plotly_hover", point);
    }
  }, 500);
  return () => clearInterval(timer);
}
export default { render };

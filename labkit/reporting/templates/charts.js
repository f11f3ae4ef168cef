// Charts are drawn by plotly, from the JSON that lies in them; the still figure beside it makes way.
if (window.Plotly)
  document.querySelectorAll("figure.chart").forEach((box) => {
    const figure = JSON.parse(box.querySelector("script").textContent);
    const drawn = document.createElement("div"), picture = document.createElement("img"), words = document.createElement("p");
    box.append(drawn);
    box.classList.add("on");
    Plotly.newPlot(drawn, figure.data, figure.layout, { responsive: true, displaylogo: false });
    // Points that carry a picture, or a picture and words, show it while they are pointed at.
    const hover = document.createElement("div");
    hover.className = "hover";
    hover.hidden = true;
    hover.append(picture, words);
    box.append(hover);
    drawn.on("plotly_hover", ({ points: [point], event }) => {
      const [uri, said] = [point.customdata].flat();
      if (!String(uri).startsWith("data:image/")) return;
      const place = box.getBoundingClientRect();
      picture.src = uri;
      picture.alt = said || point.text || "";
      words.textContent = said || "";
      hover.hidden = false;
      const left = event.clientX - place.left + 14;
      hover.style.left = `${Math.min(left, place.width - hover.offsetWidth - 4)}px`;
      hover.style.top = `${event.clientY - place.top + 14}px`;
    });
    drawn.on("plotly_unhover", () => (hover.hidden = true));
  });

// Reads values off a chart: a rule at the nearest step under the pointer, and its values above.
for (const figure of document.querySelectorAll("figure.chart")) {
  const {box: [left, right, top, bottom], range: [first, last], curves} = JSON.parse(figure.dataset.chart);
  const svg = figure.querySelector("svg"), readout = figure.querySelector(".read");
  const rule = document.createElementNS("http://www.w3.org/2000/svg", "line");
  rule.setAttribute("class", "rule");
  rule.setAttribute("y1", top);
  rule.setAttribute("y2", bottom);
  const nearest = (steps, wanted) => {
    let low = 0, high = steps.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (2 * wanted > steps[middle] + steps[middle + 1]) low = middle + 1;
      else high = middle;
    }
    return low;
  };
  const finest = curves.reduce((a, b) => (b.steps.length > a.steps.length ? b : a));
  svg.addEventListener("pointermove", (event) => {
    const {left: edge, width} = svg.getBoundingClientRect();
    const x = ((event.clientX - edge) / width) * svg.viewBox.baseVal.width;
    const step = finest.steps[nearest(finest.steps, first + ((x - left) / (right - left)) * (last - first))];
    const place = left + ((step - first) / (last - first)) * (right - left);
    rule.setAttribute("x1", place);
    rule.setAttribute("x2", place);
    svg.append(rule);
    const values = curves.map(({name, steps, values}) => {
      const at = nearest(steps, step);
      const where = steps[at] === step ? "" : ` (at ${steps[at].toLocaleString("en")})`;
      return `${name} ${values[at]}${where}`.trim();
    });
    readout.textContent = `step ${step.toLocaleString("en")}: ${values.join(", ")}`;
  });
  svg.addEventListener("pointerleave", () => {
    rule.remove();
    readout.textContent = "";
  });
}

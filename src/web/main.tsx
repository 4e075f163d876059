import { render } from "preact";
import "uplot/dist/uPlot.min.css";
import "./style.css";
import { App } from "./app.tsx";

const root = document.getElementById("app");
if (root !== null) render(<App token={takeToken()} />, root);

/** The token may come with the address (`#token=…`); it is not kept there. */
function takeToken(): string | undefined {
  const token = /(?:^#|&)token=([A-Za-z0-9_-]+)/.exec(location.hash)?.[1];
  if (token !== undefined) history.replaceState(null, "", location.pathname);
  return token;
}

/** Ale's version, as in `package.json`; the bundler keeps this one field of it. */
export { version as VERSION } from "../../package.json";

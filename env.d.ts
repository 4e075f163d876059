/** Files the build embeds; at run time the import is a path inside the executable. */
declare module "*.node" {
  const path: string;
  export default path;
}
declare module "*.so.1" {
  const path: string;
  export default path;
}
declare module "*.so.6" {
  const path: string;
  export default path;
}
declare module "*.css";

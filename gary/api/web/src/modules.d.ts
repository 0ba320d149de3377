declare module "virtual:wavesurfer-style" {
  const css: string;
  export default css;
}

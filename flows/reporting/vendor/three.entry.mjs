export {
  AmbientLight, BufferAttribute, BufferGeometry, Color, DirectionalLight, DoubleSide, Group, HemisphereLight, Mesh,
  MeshStandardMaterial, PerspectiveCamera, Scene, Vector3, WebGLRenderer, SRGBColorSpace, ACESFilmicToneMapping, REVISION
} from 'three';
export { OrbitControls } from 'three/addons/controls/OrbitControls.js';

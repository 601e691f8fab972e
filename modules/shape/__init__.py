"""TripoSG's system: a 3D shape VAE and a rectified-flow transformer over its latents."""

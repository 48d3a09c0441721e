"""The diffusion model as pure torch: schedule, forward process, losses, denoisers, autoencoder, sampler."""

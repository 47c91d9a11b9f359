"""Images with captions: checked, compared by perceptual hash, denoised, resampled, augmented."""

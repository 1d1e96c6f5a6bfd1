"""What GPUs a host has and how they are: NVML on real ones, a marked simulation where there are none."""

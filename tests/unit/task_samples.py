"""Tasks as people write them."""

from typing import Any

from ruamel.yaml import YAML

TRAIN = """
name: train-resnet
image: base
resources: {gpus: 2, gpu_model: [A100, H100], cpus: 8, memory: 32GB, shm: 8GB,
  labels: {region: eu}, selectors: ["!spot"]}
disconnect: 60s
nodes: 1
ray: false
working_dir: .
env: {EPOCHS: "3"}
secrets: [WANDB_KEY]
setup: pip install -r requirements.txt
command: python train.py
mounts: [{volume: data, path: /data}]
priority: 200
preemptible: true
retry: {max: 3, on: [preempted, host_lost, error], backoff: 10s}
timeout: 6h
checkpoint: {signal: SIGTERM, grace: 120s}
depends_on: [prepare-data]
array: 0-9
"""
SMALL = {"name": "small", "image": "base", "command": "true"}

Document = dict[str, Any]  # what YAML or JSON holds


def from_yaml(text: str) -> Document:
    """As YAML 1.2: in 1.1 the key `on` is a boolean."""
    document: Document = YAML(typ="safe", pure=True).load(text)
    return document

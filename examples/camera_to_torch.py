"""A camera's frames as PyTorch tensors, without a copy: python examples/camera_to_torch.py NAME

Start camera.py with the same NAME before, or within a minute. PyTorch: pip install torch
"""

import sys

import torch

import extmem


def main(name: str) -> None:
    seen = 0
    for frame in extmem.subscribe(name, patience=60):
        tensor = torch.from_dlpack(frame)  # the bytes that the camera wrote
        if not seen:
            same = tensor.data_ptr() == frame.numpy().ctypes.data
            print(f"{tuple(tensor.shape)} {tensor.dtype}, the same address: {same}", flush=True)
        red = tensor[..., 0].float().mean()  # whatever a network would do
        seen += 1
        if seen % 30 == 0:
            print(f"frame {frame.sequence}: red is {red:.1f}", flush=True)
        del tensor  # the next step gives the frame back to the camera
    print(f"saw {seen} frames")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python examples/camera_to_torch.py NAME")
    main(sys.argv[1])

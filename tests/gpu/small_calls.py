"""Run every GPU kernel once, at small sizes: what compute-sanitizer watches."""

import torch

from regard.attention import MECHANISMS

if __name__ == "__main__":
    for mechanism in MECHANISMS:
        for sample in mechanism.samples:
            tensors = sample.tensors(torch.bfloat16, "cuda")
            if mechanism.operator is None or mechanism.unsupported_reasons(**tensors, **sample.options):
                continue
            tensors = {name: tensor.requires_grad_() for name, tensor in tensors.items()}
            outputs = mechanism.function(**tensors, **sample.options, backend="fused")
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            torch.autograd.grad([one.float().sum() for one in outputs], list(tensors.values()))
    torch.cuda.synchronize()

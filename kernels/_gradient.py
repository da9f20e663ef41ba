"""Autograd formulas derived from names: the schema of a backward says which tensors it needs.

An argument `dout` is the gradient of the output `out`; an optional one is None if there is no such gradient, or if the output
is empty because it was not requested. An argument `has_x` says whether the input `x` was given. Every other argument is the
input or output of the same name, saved by the forward. A result `dx` is the gradient of the input `x`; if `x` was not given or
needs no gradient, its content is arbitrary. A forward called with `save_states=False` saves nothing and has no gradients.
"""

import torch


class Formula:
    """Autograd formula derived from the schemas of a forward and of its backward."""

    def __init__(self, name, forward, backward):
        inputs, outputs = [a.name for a in forward.arguments], [r.name for r in forward.returns]
        values, results = inputs + outputs, [r.name for r in backward.returns]
        if unknown := [name for name in results if name not in {f"d{name}" for name in inputs}]:
            raise ValueError(
                f"{name}_bwd: result {unknown[0]!r} is the gradient of no input, expected d and a name of {inputs}"
            )
        self.name, self.sources, self.saved, self.plain, self.presence = name, [], [], [], []
        for argument in backward.arguments:
            kind, label = str(argument.type), argument.name
            if label not in values and label.startswith("d") and label[1:] in outputs:
                pool, index = "gradients", outputs.index(label[1:])
            elif label not in values and label.startswith("has_"):
                pool, index = "presence", len(self.presence)
                self.presence.append(inputs.index(label[4:]))
            else:
                if label not in values:
                    raise ValueError(f"{name}_bwd: argument {label!r} is none of {values}, nor the gradient of an output")
                pool = "saved" if "Tensor" in kind else "plain"
                index = len(getattr(self, pool))
                getattr(self, pool).append(values.index(label))
            self.sources.append((pool, index))
        gradients = [a for a, (pool, _) in zip(backward.arguments, self.sources) if pool == "gradients"]
        optional = lambda argument: "Optional" in str(argument.type)
        self.required = [outputs.index(a.name[1:]) for a in gradients if not optional(a)]
        self.optional = [outputs.index(a.name[1:]) for a in gradients if optional(a)]
        self.outputs = len(inputs)  # index of the first of them among the values
        self.results = [results.index(f"d{name}") if f"d{name}" in results else None for name in inputs]
        self.save_states = inputs.index("save_states") if "save_states" in inputs else None

    def setup_context(self, ctx, inputs, output):
        values = (*inputs, *(output if isinstance(output, tuple) else (output,)))
        ctx.save_for_backward(*[values[i] for i in self.saved])
        ctx.plain = [values[i] for i in self.plain]
        ctx.presence = [values[i] is not None for i in self.presence]
        ctx.lost = self.save_states is not None and not inputs[self.save_states]
        if self.optional:  # any gradient may be missing
            outs = [values[self.outputs + i] for i in self.required]
            ctx.zeros = [(out.shape, {"dtype": out.dtype, "device": out.device}) for out in outs]
            ctx.set_materialize_grads(False)

    def backward(self, ops, ctx, saved, *gradients):
        if ctx.lost:
            raise RuntimeError(f"{self.name}: called with save_states=False, which gives no gradients")
        if self.optional:
            gradients = list(gradients)
            for i in self.optional:
                gradients[i] = None if gradients[i] is None or not gradients[i].numel() else gradients[i]
            for i, (shape, kind) in zip(self.required, ctx.zeros):
                gradients[i] = torch.zeros(shape, **kind) if gradients[i] is None else gradients[i]
        pools = {"gradients": gradients, "saved": saved, "plain": ctx.plain, "presence": ctx.presence}
        results = getattr(ops, f"{self.name}_bwd")(*[pools[pool][i] for pool, i in self.sources])
        results = results if isinstance(results, (tuple, list)) else (results,)
        wanted = ctx.needs_input_grad
        return tuple(None if k is None or not wanted[i] else results[k] for i, k in enumerate(self.results))

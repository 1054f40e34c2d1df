//! The kernels of attention and their parameters. In bf16 a head's width is part of the kernel, in f32 it is a parameter.

use crate::Element;
use crate::kernel::{ACTIVATIONS, Kernel, Parameter, f32s, float, int, own, u32s};

const FORWARD_PARAMETERS: &[Parameter] = &[
    own("q"),
    own("k"),
    own("v"),
    u32s("tiles"),
    own("o"),
    f32s("lse"),
    f32s("partial"),
    int("heads"),
    int("group"),
    int("pack"),
    int("queries"),
    float("scale"),
];
const DQ_PARAMETERS: &[Parameter] = &[
    own("q"),
    own("k"),
    own("v"),
    own("d_o"),
    f32s("lse"),
    f32s("delta"),
    u32s("tiles"),
    own("dq"),
    int("heads"),
    int("group"),
    int("queries"),
    float("scale"),
];
const DKV_PARAMETERS: &[Parameter] = &[
    own("q"),
    own("k"),
    own("v"),
    own("d_o"),
    f32s("lse"),
    f32s("delta"),
    u32s("tiles"),
    own("dk"),
    own("dv"),
    int("heads"),
    int("group"),
    int("queries"),
    float("scale"),
];

const fn bf16(module: &'static str, name: &'static str, parameters: &'static [Parameter]) -> Kernel {
    Kernel { module, name, elements: &[Element::BF16], parameters }
}
const fn f32(name: &'static str, parameters: &'static [Parameter]) -> Kernel {
    Kernel { module: "attention_f32", name, elements: &[Element::F32], parameters }
}

/// By width, as all the lists below.
pub(in crate::launch) static FORWARD: [Kernel; 4] = [
    bf16("attention", "attention_forward_16", FORWARD_PARAMETERS),
    bf16("attention", "attention_forward_32", FORWARD_PARAMETERS),
    bf16("attention", "attention_forward_64", FORWARD_PARAMETERS),
    bf16("attention", "attention_forward_128", FORWARD_PARAMETERS),
];
pub(in crate::launch) static DQ: [Kernel; 4] = [
    bf16("attention_backward", "attention_dq_16", DQ_PARAMETERS),
    bf16("attention_backward", "attention_dq_32", DQ_PARAMETERS),
    bf16("attention_backward", "attention_dq_64", DQ_PARAMETERS),
    bf16("attention_backward", "attention_dq_128", DQ_PARAMETERS),
];
pub(in crate::launch) static DKV: [Kernel; 4] = [
    bf16("attention_backward", "attention_dkv_16", DKV_PARAMETERS),
    bf16("attention_backward", "attention_dkv_32", DKV_PARAMETERS),
    bf16("attention_backward", "attention_dkv_64", DKV_PARAMETERS),
    bf16("attention_backward", "attention_dkv_128", DKV_PARAMETERS),
];
pub(in crate::launch) static COMBINE: Kernel = bf16(
    "attention",
    "attention_combine",
    &[f32s("partial"), f32s("lse"), own("o"), int("heads"), int("queries"), int("width"), int("splits")],
);
pub(in crate::launch) static DELTA: Kernel = Kernel {
    module: "attention_backward",
    name: "attention_delta",
    elements: ACTIVATIONS,
    parameters: &[own("o"), own("d_o"), f32s("delta"), int("heads"), int("queries"), int("width")],
};
pub(in crate::launch) static FORWARD_F32: Kernel = f32(
    "attention_forward",
    &[
        own("q"),
        own("k"),
        own("v"),
        u32s("tiles"),
        own("o"),
        f32s("lse"),
        int("heads"),
        int("group"),
        int("queries"),
        int("width"),
        float("scale"),
    ],
);
pub(in crate::launch) static DQ_F32: Kernel = f32(
    "attention_dq",
    &[
        own("q"),
        own("k"),
        own("v"),
        own("d_o"),
        f32s("lse"),
        f32s("delta"),
        u32s("tiles"),
        own("dq"),
        int("heads"),
        int("group"),
        int("queries"),
        int("width"),
        float("scale"),
    ],
);
pub(in crate::launch) static DKV_F32: Kernel = f32(
    "attention_dkv",
    &[
        own("q"),
        own("k"),
        own("v"),
        own("d_o"),
        f32s("lse"),
        f32s("delta"),
        u32s("tiles"),
        own("dk"),
        own("dv"),
        int("heads"),
        int("group"),
        int("queries"),
        int("width"),
        float("scale"),
    ],
);

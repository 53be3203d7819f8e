//! The toolbox that is built into the program: what every container can run beside its image.

use coracle_kubelet_shim::Toolbox;

/// The component of `samples/toolbox`.
const WASM: &[u8] = include_bytes!("../../samples/toolbox/toolbox.wasm");

/// The names it answers to, one a line.
const APPLETS: &str = include_str!("../../samples/toolbox/applets.txt");

/// Returns the toolbox; its bytes are part of the program and cost no memory of their own.
pub(crate) fn toolbox() -> Toolbox {
    Toolbox {
        wasm: bytes::Bytes::from_static(WASM),
        applets: APPLETS.lines().map(str::to_owned).collect(),
    }
}

//! Intel AMX: a tile is 16 rows of 64 bytes, and `tdpbf16ps` multiplies a tile of 16 rows by 32 `k` with one of 32 `k` by
//! 16 columns in 16 cycles. Two by two tiles of sums are kept in registers, so each tile loaded is used twice.
//!
//! The stable compiler has no names for these instructions, hence assembly. The state of the tiles belongs to a thread and
//! is lent by the system ([`crate::cpu`]): every parallel task configures it and gives it back.
//!
//! Within a tile the processor sums even and odd `k` apart and adds both to the sum so far (Intel SDM, TDPBF16PS): an
//! order that depends on `k` alone.

use std::arch::asm;

use super::kernel::{Block, DEPTH};

/// The 64 bytes `ldtilecfg` reads: palette 1, eight tiles of 16 rows of 64 bytes.
#[repr(C, align(64))]
struct TileConfig {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

static CONFIG: TileConfig = TileConfig {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

/// Shapes this thread's tiles.
///
/// # Safety
/// The level [`crate::cpu::Level::Amx`] must be available.
pub(crate) unsafe fn configure() {
    // SAFETY: the processor has AMX and the system lent it; the configuration is 64 bytes.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const CONFIG, options(nostack, readonly)) }
}

/// Gives the tiles back, so that the system need not save them.
///
/// # Safety
/// As [`configure`].
pub(crate) unsafe fn release() {
    // SAFETY: as above.
    unsafe { asm!("tilerelease", options(nostack, nomem)) }
}

/// One strip: `rows` 16 or 32, `k` a multiple of 32.
///
/// # Safety
/// As [`super::kernel::Kernel::block`], on a thread that is [`configure`]d.
pub(super) unsafe fn block(b: &Block) {
    debug_assert!(b.k > 0 && b.k.is_multiple_of(DEPTH) && b.rows.is_multiple_of(16));
    // SAFETY: the caller vouches for the pointers; every variant stays within the rows and panels it is named for.
    unsafe {
        match (b.rows, b.panels) {
            (32, 2) => two_by_two(b),
            (32, _) => two_by_one(b),
            (_, 2) => one_by_two(b),
            _ => one_by_one(b),
        }
    }
}

/// Operands common to the variants: pointers to both tiles of the strip and both panels, strides in bytes.
macro_rules! tiles {
    ($b:ident, [$($load:literal),+], [$($zero:literal),+], [$($step:literal),+], [$($store:literal),+]) => {
        asm!(
            "test {load_c}, {load_c}",
            "jz 2f",
            $($load,)+
            "jmp 3f",
            "2:",
            $($zero,)+
            "3:",
            $($step,)+
            "add {a0}, 64",
            "add {a1}, 64",
            "add {b0}, 1024",
            "add {b1}, 1024",
            "dec {steps}",
            "jnz 3b",
            $($store,)+
            // Variants of one tile row have no use for the second.
            "/* {c1} */",
            load_c = in(reg) $b.load_c as usize,
            a0 = inout(reg) $b.a => _,
            a1 = inout(reg) $b.a.wrapping_add(32 * $b.a_stride) => _,
            b0 = inout(reg) $b.b => _,
            b1 = inout(reg) $b.b.wrapping_add($b.panel_stride) => _,
            a_row = in(reg) 2 * $b.a_stride,
            b_row = in(reg) 64usize,
            steps = inout(reg) $b.k / DEPTH => _,
            c0 = in(reg) $b.c,
            c1 = in(reg) $b.c.wrapping_add(16 * $b.c_stride),
            c_row = in(reg) 4 * $b.c_stride,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack)
        )
    };
}

// Panels are read with the hint that they will not be used again soon (`tileloaddt1`): they stream from the second-level
// cache past the strip, which stays in the first.

unsafe fn two_by_two(b: &Block) {
    // SAFETY: see `block`.
    unsafe {
        tiles!(
            b,
            [
                "tileloadd tmm0, [{c0} + {c_row}*1]",
                "tileloadd tmm1, [{c0} + {c_row}*1 + 64]",
                "tileloadd tmm2, [{c1} + {c_row}*1]",
                "tileloadd tmm3, [{c1} + {c_row}*1 + 64]"
            ],
            ["tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3"],
            [
                "tileloadd tmm4, [{a0} + {a_row}*1]",
                "tileloaddt1 tmm6, [{b0} + {b_row}*1]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloaddt1 tmm7, [{b1} + {b_row}*1]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{a1} + {a_row}*1]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7"
            ],
            [
                "tilestored [{c0} + {c_row}*1], tmm0",
                "tilestored [{c0} + {c_row}*1 + 64], tmm1",
                "tilestored [{c1} + {c_row}*1], tmm2",
                "tilestored [{c1} + {c_row}*1 + 64], tmm3"
            ]
        );
    }
}

unsafe fn two_by_one(b: &Block) {
    // SAFETY: see `block`.
    unsafe {
        tiles!(
            b,
            ["tileloadd tmm0, [{c0} + {c_row}*1]", "tileloadd tmm2, [{c1} + {c_row}*1]"],
            ["tilezero tmm0", "tilezero tmm2"],
            [
                "tileloaddt1 tmm6, [{b0} + {b_row}*1]",
                "tileloadd tmm4, [{a0} + {a_row}*1]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm5, [{a1} + {a_row}*1]",
                "tdpbf16ps tmm2, tmm5, tmm6"
            ],
            ["tilestored [{c0} + {c_row}*1], tmm0", "tilestored [{c1} + {c_row}*1], tmm2"]
        );
    }
}

unsafe fn one_by_two(b: &Block) {
    // SAFETY: see `block`.
    unsafe {
        tiles!(
            b,
            ["tileloadd tmm0, [{c0} + {c_row}*1]", "tileloadd tmm1, [{c0} + {c_row}*1 + 64]"],
            ["tilezero tmm0", "tilezero tmm1"],
            [
                "tileloadd tmm4, [{a0} + {a_row}*1]",
                "tileloaddt1 tmm6, [{b0} + {b_row}*1]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloaddt1 tmm7, [{b1} + {b_row}*1]",
                "tdpbf16ps tmm1, tmm4, tmm7"
            ],
            ["tilestored [{c0} + {c_row}*1], tmm0", "tilestored [{c0} + {c_row}*1 + 64], tmm1"]
        );
    }
}

unsafe fn one_by_one(b: &Block) {
    // SAFETY: see `block`.
    unsafe {
        tiles!(
            b,
            ["tileloadd tmm0, [{c0} + {c_row}*1]"],
            ["tilezero tmm0"],
            [
                "tileloadd tmm4, [{a0} + {a_row}*1]",
                "tileloaddt1 tmm6, [{b0} + {b_row}*1]",
                "tdpbf16ps tmm0, tmm4, tmm6"
            ],
            ["tilestored [{c0} + {c_row}*1], tmm0"]
        );
    }
}

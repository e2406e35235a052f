//! Scalar operations on words.

use naga::{BinaryOperator, MathFunction, ScalarKind};

use crate::fault::{Fault, FaultKind};

fn f(word: u32) -> f32 {
    f32::from_bits(word)
}

/// An operation of two words of one kind.
pub(crate) type Binary = fn(u32, u32) -> u32;

/// The function of an operator. Those that can go wrong are in [`check`].
pub(crate) fn binary(op: BinaryOperator, kind: ScalarKind) -> Result<Binary, Fault> {
    use BinaryOperator as B;
    use ScalarKind::{Bool, Float, Sint, Uint};
    Ok(match (op, kind) {
        (B::Add, Uint | Sint) => u32::wrapping_add,
        (B::Subtract, Uint | Sint) => u32::wrapping_sub,
        (B::Multiply, Uint | Sint) => u32::wrapping_mul,
        (B::Divide, Uint) => |a, b| a.checked_div(b).unwrap_or(0),
        (B::Modulo, Uint) => |a, b| a.checked_rem(b).unwrap_or(0),
        (B::Divide, Sint) => |a, b| a.cast_signed().wrapping_div(b.cast_signed()).cast_unsigned(),
        (B::Modulo, Sint) => |a, b| a.cast_signed().wrapping_rem(b.cast_signed()).cast_unsigned(),
        (B::Add, Float) => |a, b| (f(a) + f(b)).to_bits(),
        (B::Subtract, Float) => |a, b| (f(a) - f(b)).to_bits(),
        (B::Multiply, Float) => |a, b| (f(a) * f(b)).to_bits(),
        (B::Divide, Float) => |a, b| (f(a) / f(b)).to_bits(),
        (B::Modulo, Float) => |a, b| (f(a) % f(b)).to_bits(),
        (B::Equal, Float) => |a, b| (f(a) == f(b)).into(),
        (B::NotEqual, Float) => |a, b| (f(a) != f(b)).into(),
        (B::Less, Float) => |a, b| (f(a) < f(b)).into(),
        (B::LessEqual, Float) => |a, b| (f(a) <= f(b)).into(),
        (B::Greater, Float) => |a, b| (f(a) > f(b)).into(),
        (B::GreaterEqual, Float) => |a, b| (f(a) >= f(b)).into(),
        (B::Equal, _) => |a, b| (a == b).into(),
        (B::NotEqual, _) => |a, b| (a != b).into(),
        (B::Less, Uint) => |a, b| (a < b).into(),
        (B::LessEqual, Uint) => |a, b| (a <= b).into(),
        (B::Greater, Uint) => |a, b| (a > b).into(),
        (B::GreaterEqual, Uint) => |a, b| (a >= b).into(),
        (B::Less, Sint) => |a, b| (a.cast_signed() < b.cast_signed()).into(),
        (B::LessEqual, Sint) => |a, b| (a.cast_signed() <= b.cast_signed()).into(),
        (B::Greater, Sint) => |a, b| (a.cast_signed() > b.cast_signed()).into(),
        (B::GreaterEqual, Sint) => |a, b| (a.cast_signed() >= b.cast_signed()).into(),
        (B::And | B::LogicalAnd, Uint | Sint | Bool) => |a, b| a & b,
        (B::InclusiveOr | B::LogicalOr, Uint | Sint | Bool) => |a, b| a | b,
        (B::ExclusiveOr, Uint | Sint | Bool) => |a, b| a ^ b,
        (B::ShiftLeft, Uint | Sint) => u32::wrapping_shl,
        (B::ShiftRight, Uint) => u32::wrapping_shr,
        (B::ShiftRight, Sint) => |a, b| a.cast_signed().wrapping_shr(b).cast_unsigned(),
        other => return Err(Fault::unsupported(other)),
    })
}

/// True for the operators that [`check`] looks at.
pub(crate) fn may_fail(op: BinaryOperator, kind: ScalarKind) -> bool {
    use BinaryOperator as B;
    match op {
        B::Divide | B::Modulo => kind != ScalarKind::Float,
        B::ShiftLeft | B::ShiftRight => true,
        _ => false,
    }
}

/// Refuses what WGSL has a value for and nobody means.
pub(crate) fn check(op: BinaryOperator, right: u32) -> Result<(), Fault> {
    let is_shift = matches!(op, BinaryOperator::ShiftLeft | BinaryOperator::ShiftRight);
    if is_shift && right >= 32 {
        return Err(Fault::new(FaultKind::Shift, format!("a shift by {right}")));
    }
    if !is_shift && right == 0 {
        return Err(Fault::new(FaultKind::DivisionByZero, "a division by zero"));
    }
    Ok(())
}

/// A function of up to three words of one kind, component by component.
pub(crate) type Function = fn([u32; 3]) -> u32;

/// The function of a built-in one.
pub(crate) fn function(fun: MathFunction, kind: ScalarKind) -> Result<Function, Fault> {
    use MathFunction as M;
    use ScalarKind::{Float, Sint, Uint};
    Ok(match (fun, kind) {
        (M::Min, Uint) => |[a, b, _]| a.min(b),
        (M::Max, Uint) => |[a, b, _]| a.max(b),
        (M::Clamp, Uint) => |[a, b, c]| a.max(b).min(c),
        (M::Abs, Uint) => |[a, ..]| a,
        (M::Min, Sint) => |[a, b, _]| a.cast_signed().min(b.cast_signed()).cast_unsigned(),
        (M::Max, Sint) => |[a, b, _]| a.cast_signed().max(b.cast_signed()).cast_unsigned(),
        (M::Abs, Sint) => |[a, ..]| a.cast_signed().wrapping_abs().cast_unsigned(),
        (M::Min, Float) => |[a, b, _]| f(a).min(f(b)).to_bits(),
        (M::Max, Float) => |[a, b, _]| f(a).max(f(b)).to_bits(),
        (M::Clamp, Float) => |[a, b, c]| f(a).max(f(b)).min(f(c)).to_bits(),
        (M::Abs, Float) => |[a, ..]| f(a).abs().to_bits(),
        (M::Sign, Float) => |[a, ..]| if f(a) == 0.0 { 0 } else { f(a).signum().to_bits() },
        (M::Exp, Float) => |[a, ..]| f(a).exp().to_bits(),
        (M::Exp2, Float) => |[a, ..]| f(a).exp2().to_bits(),
        (M::Log, Float) => |[a, ..]| f(a).ln().to_bits(),
        (M::Log2, Float) => |[a, ..]| f(a).log2().to_bits(),
        (M::Sqrt, Float) => |[a, ..]| f(a).sqrt().to_bits(),
        (M::InverseSqrt, Float) => |[a, ..]| f(a).sqrt().recip().to_bits(),
        (M::Sin, Float) => |[a, ..]| f(a).sin().to_bits(),
        (M::Cos, Float) => |[a, ..]| f(a).cos().to_bits(),
        (M::Tanh, Float) => |[a, ..]| f(a).tanh().to_bits(),
        (M::Floor, Float) => |[a, ..]| f(a).floor().to_bits(),
        (M::Ceil, Float) => |[a, ..]| f(a).ceil().to_bits(),
        (M::Trunc, Float) => |[a, ..]| f(a).trunc().to_bits(),
        (M::Round, Float) => |[a, ..]| f(a).round_ties_even().to_bits(),
        (M::Fma, Float) => |[a, b, c]| f(a).mul_add(f(b), f(c)).to_bits(),
        (M::Pow, Float) => |[a, b, _]| f(a).powf(f(b)).to_bits(),
        (M::CountLeadingZeros, Uint) => |[a, ..]| a.leading_zeros(),
        (M::CountTrailingZeros, Uint) => |[a, ..]| a.trailing_zeros(),
        (M::CountOneBits, Uint) => |[a, ..]| a.count_ones(),
        other => return Err(Fault::unsupported(other)),
    })
}

/// The sum of the products of two vectors, one after the other.
pub(crate) fn dot(kind: ScalarKind, pairs: impl Iterator<Item = (u32, u32)>) -> u32 {
    match kind {
        ScalarKind::Float => pairs.fold(0.0f32, |sum, (a, b)| sum + f(a) * f(b)).to_bits(),
        _ => pairs.fold(0u32, |sum, (a, b)| sum.wrapping_add(a.wrapping_mul(b))),
    }
}

/// A conversion of values, out of range to the nearest.
pub(crate) fn convert(from: ScalarKind, to: ScalarKind) -> Result<fn(u32) -> u32, Fault> {
    use ScalarKind::{Bool, Float, Sint, Uint};
    Ok(match (from, to) {
        (Uint | Sint, Uint | Sint) | (Bool, Uint | Sint) | (Bool, Bool) | (Float, Float) => |a| a,
        (Uint, Float) => |a| (a as f32).to_bits(),
        (Sint, Float) => |a| (a.cast_signed() as f32).to_bits(),
        (Bool, Float) => |a| (a as f32).to_bits(),
        (Float, Uint) => |a| f(a) as u32,
        (Float, Sint) => |a| (f(a) as i32).cast_unsigned(),
        (Uint | Sint, Bool) => |a| (a != 0).into(),
        (Float, Bool) => |a| (f(a) != 0.0).into(),
        other => return Err(Fault::unsupported(other)),
    })
}

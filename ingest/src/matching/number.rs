//! Comparing JSON numbers by what they are worth, digit for digit.
//!
//! `filter` asks; nothing else does. A cast of both sides to `f64` would make
//! 9007199254740993 equal to 9007199254740992, and an order's id is such a
//! number. So integers are compared as integers, and a double against an
//! integer by its whole part first: every double has an exact whole part.

use std::cmp::Ordering;

use serde_json::Number;

/// Which is worth more: `1` and `1.0` are equal, `2^53 + 1` and `2^53` are not.
///
/// A total order over all that JSON can say within 64-bit integers and
/// doubles. `None` only for a number that is neither (none is, as `serde_json`
/// is built here; with its `arbitrary_precision`, `1e999` would be).
pub(super) fn compare(a: &Number, b: &Number) -> Option<Ordering> {
    match (worth(a)?, worth(b)?) {
        (Worth::Integer(a), Worth::Integer(b)) => Some(a.cmp(&b)),
        (Worth::Integer(a), Worth::Double(b)) => Some(integer_to_double(a, b)),
        (Worth::Double(a), Worth::Integer(b)) => Some(integer_to_double(b, a).reverse()),
        (Worth::Double(a), Worth::Double(b)) => a.partial_cmp(&b),
    }
}

/// What numbers of the same worth have in common, to be hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum NumberKey {
    Integer(i128),
    /// The bits of a double that is no integer within 128 bits.
    Double(u64),
}

/// Equal for two numbers exactly if [`compare`] says that they are.
pub(super) fn key(number: &Number) -> Option<NumberKey> {
    Some(match worth(number)? {
        Worth::Integer(integer) => NumberKey::Integer(integer),
        // As below; in range and without a fraction, so exact.
        Worth::Double(double) if double.fract() == 0.0 && (-BEYOND..BEYOND).contains(&double) => {
            NumberKey::Integer(double as i128)
        }
        Worth::Double(double) => NumberKey::Double(double.to_bits()),
    })
}

enum Worth {
    Integer(i128),
    /// Finite.
    Double(f64),
}

fn worth(number: &Number) -> Option<Worth> {
    let integer = number.as_i128().map(Worth::Integer);
    integer.or_else(|| Some(Worth::Double(number.as_f64().filter(|n| n.is_finite())?)))
}

/// 2^127, the first double above every i128. -2^127 is an i128.
const BEYOND: f64 = 170_141_183_460_469_231_731_687_303_715_884_105_728.0;

fn integer_to_double(integer: i128, double: f64) -> Ordering {
    if double >= BEYOND {
        return Ordering::Less;
    }
    if double < -BEYOND {
        return Ordering::Greater;
    }
    // Exact: it has no fraction and is in range.
    let whole = double.trunc() as i128;
    integer.cmp(&whole).then_with(|| {
        // Equal wholes: the fraction decides, below zero if the double is.
        // It is never NaN, for the double is finite.
        0.0.partial_cmp(&double.fract()).unwrap_or(Ordering::Equal)
    })
}

#[allow(clippy::unwrap_used, reason = "a test may fail")]
#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn order(a: &str, b: &str) -> Ordering {
        compare(&a.parse().unwrap(), &b.parse().unwrap()).unwrap()
    }

    #[test]
    fn no_digit_is_lost() {
        use Ordering::*;
        for (a, b, expected) in [
            ("1", "1.0", Equal),
            ("0", "-0.0", Equal),
            ("25", "25.00", Equal),
            ("9007199254740993", "9007199254740992", Greater),
            ("9007199254740993", "9007199254740992.0", Greater),
            ("9007199254740992", "9007199254740992.0", Equal),
            ("12345678901234567890", "12345678901234567891", Less),
            ("18446744073709551615", "18446744073709551616", Less),
            ("-9223372036854775808", "-9223372036854775808.0", Equal),
            ("-9223372036854775807", "-9223372036854775808.0", Greater),
            ("18446744073709551615", "-1", Greater),
            ("0", "0.5", Less),
            ("0", "-0.5", Greater),
            ("-1", "-0.5", Less),
            ("-1", "-1.5", Greater),
            ("1", "1e308", Less),
            ("1", "-1e308", Greater),
            ("0", "5e-324", Less),
            ("0.1", "0.10", Equal),
        ] {
            assert_eq!(order(a, b), expected, "{a} {b}");
            assert_eq!(order(b, a), expected.reverse(), "{b} {a}");
        }
    }

    /// Numbers that lie close to one another where precision ends, and others.
    fn number() -> impl Strategy<Value = Number> {
        let near = prop_oneof![Just(1_i128 << 53), Just(1_i128 << 63), Just(1_i128 << 64)];
        prop_oneof![
            any::<i64>().prop_map(Number::from),
            any::<u64>().prop_map(Number::from),
            any::<f64>().prop_filter_map("finite", Number::from_f64),
            (-4_i64..4).prop_map(Number::from),
            (-8_i32..8).prop_map(|n| Number::from_f64(f64::from(n) / 2.0).unwrap()),
            (near, -3_i128..3, any::<bool>(), any::<bool>()).prop_map(
                |(near, by, minus, double)| {
                    let integer = if minus { -near - by } else { near + by };
                    match Number::from_i128(integer) {
                        Some(integer) if !double => integer,
                        _ => Number::from_f64(integer as f64).unwrap(),
                    }
                }
            ),
        ]
    }

    /// The same question, answered by writing both out in full: a double's
    /// decimal expansion is finite, 1074 places at most.
    fn compare_in_writing(a: &Number, b: &Number) -> Ordering {
        let write = |n: &Number| match n.as_i128() {
            Some(n) => format!("{n}.{}", "0".repeat(1074)),
            None => format!("{:.1074}", n.as_f64().unwrap()),
        };
        let signed = |text: String| {
            let digits = text.trim_start_matches('-').to_owned();
            let nothing = digits.chars().all(|c| c == '0' || c == '.');
            (
                text.starts_with('-') && !nothing,
                format!("{digits:0>1400}"),
            )
        };
        match (signed(write(a)), signed(write(b))) {
            ((true, _), (false, _)) => Ordering::Less,
            ((false, _), (true, _)) => Ordering::Greater,
            ((true, a), (true, b)) => b.cmp(&a),
            ((false, a), (false, b)) => a.cmp(&b),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3000))]

        #[test]
        fn numbers_compare_as_they_do_written_out(a in number(), b in number()) {
            prop_assert_eq!(compare(&a, &b), Some(compare_in_writing(&a, &b)), "{} {}", a, b);
        }

        #[test]
        fn numbers_of_the_same_worth_have_the_same_key(a in number(), b in number()) {
            let equal = compare(&a, &b) == Some(Ordering::Equal);
            prop_assert_eq!(key(&a) == key(&b), equal, "{} {}", a, b);
        }

        #[test]
        fn the_order_is_total(a in number(), b in number(), c in number()) {
            prop_assert_eq!(compare(&a, &a), Some(Ordering::Equal));
            prop_assert_eq!(compare(&a, &b), compare(&b, &a).map(Ordering::reverse));
            let mut all = [a, b, c];
            all.sort_by(|a, b| compare(a, b).unwrap());
            prop_assert_ne!(compare(&all[0], &all[2]), Some(Ordering::Greater));
        }
    }
}

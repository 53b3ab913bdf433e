//! How much memory a message takes while it is held.

use lapin::message::Delivery;
use lapin::types::{AMQPValue, FieldTable};

/// About what a message takes while it is held, in bytes: its data and its headers,
/// which may be as large.
pub(super) fn memory(delivery: &Delivery) -> usize {
    /// For itself and its short properties.
    const A_MESSAGE: usize = 512;
    let headers = delivery.properties.headers().as_ref();
    A_MESSAGE + delivery.data.len() + headers.map_or(0, table)
}

/// For a value of headers, besides its text: what the client's types take, and their
/// allocations.
const A_VALUE: usize = 64;

fn table(table: &FieldTable) -> usize {
    let members = table.inner().iter();
    members
        .map(|(name, member)| A_VALUE + name.as_str().len() + value(member))
        .sum()
}

// The connection's guard bounds how deep headers are nested.
fn value(of: &AMQPValue) -> usize {
    A_VALUE
        + match of {
            AMQPValue::ShortString(text) => text.as_str().len(),
            AMQPValue::LongString(text) => text.len(),
            AMQPValue::ByteArray(bytes) => bytes.len(),
            AMQPValue::FieldArray(items) => items.as_slice().iter().map(value).sum(),
            AMQPValue::FieldTable(members) => table(members),
            _ => 0,
        }
}

#[cfg(test)]
mod tests {
    use lapin::BasicProperties;

    use super::*;

    #[test]
    fn headers_count_as_much_as_data() {
        let message = |headers: FieldTable, data: &[u8]| {
            let mut message = Delivery::mock(1, "".into(), "acme.a".into(), false, data.to_vec());
            message.properties = BasicProperties::default().with_headers(headers);
            memory(&message)
        };
        let bare = message(FieldTable::default(), b"");
        let data = message(FieldTable::default(), &[b'x'; 100_000]);
        assert_eq!(data, bare + 100_000);
        let text = |bytes: usize| AMQPValue::LongString("x".repeat(bytes).into());
        let mut inner = FieldTable::default();
        inner.insert("b".into(), AMQPValue::FieldArray(vec![text(50_000)].into()));
        let mut headers = FieldTable::default();
        headers.insert("a".into(), text(50_000));
        headers.insert("n".into(), AMQPValue::FieldTable(inner));
        let counted = message(headers, b"") - bare;
        assert!((100_000..101_000).contains(&counted), "{counted}");
        // Of many values, each counts.
        let many = AMQPValue::FieldArray(vec![AMQPValue::Void; 1_000].into());
        let mut headers = FieldTable::default();
        headers.insert("v".into(), many);
        assert!(message(headers, b"") >= bare + 1_000 * size_of::<AMQPValue>());
    }
}

//! Values and answers as D-Bus carries them.

use dbus::Message;
use dbus::arg::{Append, PropMap, RefArg, Variant};

pub(super) fn uuid(value: u128) -> String {
    let hex = format!("{value:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

pub(super) fn boxed<T: RefArg + Append + 'static>(value: T) -> Variant<Box<dyn RefArg>> {
    Variant(Box::new(value))
}

pub(super) fn map<const N: usize>(entries: [(&str, Variant<Box<dyn RefArg>>); N]) -> PropMap {
    entries.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

pub(super) fn error(call: &Message, name: &str, text: &str) -> Message {
    let text = std::ffi::CString::new(text).unwrap();
    call.error(&name.to_owned().into(), &text)
}

pub(super) fn property(call: &Message, member: &str, all: &PropMap) -> Message {
    let copy = |value: &Variant<Box<dyn RefArg>>| Variant(value.0.box_clone());
    if member == "GetAll" {
        let all: PropMap = all.iter().map(|(name, value)| (name.clone(), copy(value))).collect();
        return call.method_return().append1(all);
    }
    let (_, name) = call.read2::<&str, &str>().unwrap_or_default();
    match all.get(name) {
        Some(value) if member == "Get" => call.method_return().append1(copy(value)),
        _ => error(call, "org.freedesktop.DBus.Error.InvalidArgs", "no such property"),
    }
}

pub(super) fn node(children: &[&str]) -> String {
    let nodes = children.iter().fold(String::new(), |nodes, child| format!("{nodes}<node name=\"{child}\"/>"));
    format!(
        "<!DOCTYPE node PUBLIC \"-//freedesktop//DTD D-BUS Object Introspection 1.0//EN\" \"http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd\"><node>{nodes}</node>"
    )
}

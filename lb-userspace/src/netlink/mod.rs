//! Next hops and interfaces, as the kernel's routing tables have them and as they change.

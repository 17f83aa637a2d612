//! Attacks and faults, by the letters of their table.

mod a;
mod a_namespaces;
mod a_pins;
mod b;
mod c;
mod d;
mod e;
mod f;
mod g;
mod jk;
mod l;
mod l_changes;
mod r;
mod r_rotation;
mod r_script;
mod r_terminal;
mod x;
mod y;
mod z;

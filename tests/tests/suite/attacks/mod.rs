//! Attacks and faults, by the letters of their table.

mod a;
mod b;
mod c;
mod d;
mod e;
mod f;
mod g;
mod jk;
mod l;
mod x;
mod z;

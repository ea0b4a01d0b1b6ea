//! Golden bytes of every layout: a change of any of them is a change of the format and needs a new version.
//! `REKINDLE_BLESS=1` writes the files anew.

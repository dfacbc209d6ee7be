package house

var dark = !lit

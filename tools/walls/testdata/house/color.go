package house

const brush = 3

type color struct{ shade int }

func mix(d door) color { return color{shade: brush} }

package house

type wall[T any] struct {
	thickness T
	color
}

func (w wall[T]) paint() { w.shade = brush }

package house

import "example.com/house/room"

type door struct{ wall *wall[int] }

func (d *door) open() bool {
	if d.wall == nil {
		return false
	}
	return d.wall.thickness > 0 && room.Window()
}

package doctor

var nodeKinds = []Kind{}

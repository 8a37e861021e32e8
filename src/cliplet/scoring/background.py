"""Everyday sentences that say nothing of the photo at hand: how high a photo's cosines are without a reason.

Cosines of one photo with captions of other scenes differ from photo to photo and from model to model. A sentence is
judged by how far it stands above those of this list, which covers the usual scenes once each; a photo is seldom of more
than two of them, so the mean and the spread of the list are the photo's own background.
"""

SENTENCES = tuple(
    line.strip()
    for line in """
    a man in a suit talks on the phone
    a woman reads a book on a bench
    two children play in the sand at the beach
    a group of people sit at a restaurant table
    a brown dog runs through the grass
    a black and white cat sleeps on a bed
    a baby sits in a high chair and eats
    a man rides a bicycle on the street
    a girl in a pink dress swings in a park
    several men play football on a field
    a boy jumps into a swimming pool
    a surfer rides a large wave
    a skier goes down a snowy hill
    a skateboarder does a trick on a ramp
    a man climbs a steep rock face
    people walk along a crowded city street
    a red bus drives down the road
    a train stands at a station
    an airplane flies in a clear blue sky
    a small boat floats on a lake
    two horses graze in a green field
    a herd of cows stands near a fence
    a white bird swims in the water
    an elephant walks through the forest
    a giraffe eats leaves from a tall tree
    a plate of food with meat and vegetables
    a pizza with cheese on a wooden table
    a birthday cake with candles
    a bowl of fruit on a counter
    a cup of coffee beside a laptop
    a kitchen with a stove and a refrigerator
    a bathroom with a toilet and a sink
    a living room with a couch and a television
    a bedroom with a large bed and a lamp
    an office desk with a computer and a keyboard
    a tall building with a clock tower
    an old church in a small village
    a bridge over a wide river
    a traffic light at an intersection
    a street sign on a pole
    a motorcycle is parked beside a wall
    a yellow flower in a vase
    a mountain with snow under a cloudy sky
    a sunset over the ocean
    fireworks in the night sky
    a band plays music on a stage
    a woman sings into a microphone
    a dancer in a costume performs for a crowd
    a bride and a groom stand outside a church
    soldiers in uniform march in a parade
    a player hits a tennis ball with a racket
    a baseball player swings a bat
    a basketball game in a large hall
    a hockey player skates on the ice
    a race car speeds round a track
    a worker in a helmet repairs a roof
    a farmer drives a tractor in a field
    a tent stands under trees in a forest
    a person holds an umbrella in the rain
    a kite flies high above a beach
    a stuffed bear sits on a shelf
    a page of printed text
    a map with lines and names
    a close up of a machine with metal parts
    """.strip().splitlines()
)
